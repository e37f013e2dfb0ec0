"""The life of a VM in its own process, step by step: no daemon, and a loop that waits for us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.guests import RESET, mark, rom

TIMEOUT = 60  # seconds
KILLED_BEHIND_A_RESET = """
import os
import sys
import time
from chdebugd.control import FileRole, StartRequest
from chdebugd.trace.ring import Ring
from chdebugd.vm_life import VmLife
from chdebugd.vm_loop import VmLoop

def killed(error):
    print(life.status.state, life.status.result, life.ring.boot)

loop = VmLoop()
life = VmLife("fw0", loop, Ring.create(), lambda status: None, loop.stop, directory=sys.argv[2])
firmware = os.open(sys.argv[1], os.O_RDONLY)
files = (FileRole("firmware", "firmware"),)
request = StartRequest(memory=2 << 20, journal="/nonexistent", files=files)
life.start(request, [firmware], lambda error: None)
while life._machine.outcome is None:  # the guest has reset itself, and the loop has not heard yet
    time.sleep(0.001)
life.kill(killed)
loop.run()
"""


def test_a_kill_counts_although_the_guest_has_just_reset_itself(tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    firmware.write_bytes(rom(mark(0x60) + RESET))
    command = [sys.executable, "-c", KILLED_BEHIND_A_RESET, str(firmware), str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    assert (done.stdout, done.stderr) == ("stopped killed 1\n", "")
