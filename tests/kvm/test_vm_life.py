"""The life of a VM in its own process, step by step: no daemon, and a loop that waits for us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.guests import RESET, mark, rom

TIMEOUT = 60  # seconds
RESETS_ITSELF = """
import os
import sys
import time
from chdebugd.control import FileRole, StartRequest
from chdebugd.errors import WrongStateError
from chdebugd.trace.ring import Ring
from chdebugd.vm_life import VmLife
from chdebugd.vm_loop import VmLoop

loop = VmLoop()
life = VmLife("fw0", loop, Ring.create(), lambda status: None, loop.stop, directory=sys.argv[2])
firmware = os.open(sys.argv[1], os.O_RDONLY)
files = (FileRole("firmware", "firmware"),)
request = StartRequest(memory=2 << 20, journal="/nonexistent", files=files)
life.start(request, [firmware], lambda error: None)
while life._machine.outcome is None:  # the guest has reset itself, and the loop has not heard yet
    time.sleep(0.001)
"""
KILLED = """
life.kill(lambda error: print(life.status.state, life.status.result, life.ring.boot))
loop.run()
"""
PAUSED = """
life.woken()  # it runs, as far as anyone knows
try:
    life.pause()
    print("paused")
except WrongStateError as error:
    print(error)
life.kill(lambda error: None)
loop.run()
"""

STARTED_TWICE = """
again = os.open(sys.argv[1], os.O_RDONLY)
try:
    life.start(request, [again], lambda error: None)
except WrongStateError as error:
    print(error)
print(os.path.exists(f"/proc/self/fd/{again}"))
life.kill(lambda error: None)
loop.run()
"""


def told_behind_a_reset(directory: Path, steps: str) -> str:
    """What `steps` print, which come when the guest has reset itself and nobody heard it yet."""
    firmware = directory / "firmware"
    firmware.write_bytes(rom(mark(0x60) + RESET))
    command = [sys.executable, "-c", RESETS_ITSELF + steps, str(firmware), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.stderr == ""
    return done.stdout


def test_a_kill_counts_although_the_guest_has_just_reset_itself(tmp_path: Path) -> None:
    assert told_behind_a_reset(tmp_path, KILLED) == "stopped killed 1\n"


def test_a_guest_that_has_just_reset_itself_is_not_paused(tmp_path: Path) -> None:
    """Its next boot would run."""
    told = told_behind_a_reset(tmp_path, PAUSED)

    assert told == "VM 'fw0' has just ended its boot; see its State, and call again\n"


def test_a_second_start_is_refused_and_its_descriptors_closed(tmp_path: Path) -> None:
    told = told_behind_a_reset(tmp_path, STARTED_TWICE)

    assert told == "VM 'fw0' is started already\nFalse\n"
