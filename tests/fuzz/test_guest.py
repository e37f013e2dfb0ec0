"""A real guest that reads and writes at random: the same attack through KVM and the run loop."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable

import pytest

from chdebugd.trace.event import Event
from chdebugd.trace.ring import Ring
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from tests.fuzz.conftest import FACTOR
from tests.guests import SHUTDOWN_32
from tests.images import LOAD_ADDRESS, pvh_elf
from tests.kvm.conftest import TIMEOUT, drain, image_of

pytestmark = [pytest.mark.kvm, pytest.mark.fuzz]
Build = Callable[..., tuple[Machine, threading.Event]]

ACCESSES = 60_000
A_RUN = 20_000
COUNT_ADDRESS = 0x20_0000
ENDS = {Result.SHUTDOWN, Result.RESET}
BASES = [
    0x60, 0x70, 0x7C, 0x88, 0xE8, 0x2F8, 0x3F8, 0x400,
    0x5FC, 0x608, 0x610, 0x614, 0xCF8, 0xCFC, 0xC000, 0xFFF8,
]  # fmt: skip


def random_guest(state: int, accesses: int) -> bytes:
    """Accesses as an xorshift generator (Marsaglia, 2003) has them; counts them in memory."""
    table_at = LOAD_ADDRESS + 124
    code = (
        b"\xbd" + state.to_bytes(4, "little")  # mov $state, %ebp
        + b"\xbe" + accesses.to_bytes(4, "little")  # mov $accesses, %esi
        + b"\x89\xe8"  # again: mov %ebp, %eax
        b"\xc1\xe0\x0d"  # shl $13, %eax
        b"\x31\xc5"  # xor %eax, %ebp
        b"\x89\xe8"  # mov %ebp, %eax
        b"\xc1\xe8\x11"  # shr $17, %eax
        b"\x31\xc5"  # xor %eax, %ebp
        b"\x89\xe8"  # mov %ebp, %eax
        b"\xc1\xe0\x05"  # shl $5, %eax
        b"\x31\xc5"  # xor %eax, %ebp
        b"\x89\xe9"  # mov %ebp, %ecx
        b"\x83\xe1\x0f"  # and $15, %ecx
        b"\x0f\xb7\x14\x4d" + table_at.to_bytes(4, "little")  # movzwl table(,%ecx,2), %edx
        + b"\x89\xe9"  # mov %ebp, %ecx
        b"\xc1\xe9\x04"  # shr $4, %ecx
        b"\x83\xe1\x07"  # and $7, %ecx
        b"\x01\xca"  # add %ecx, %edx
        b"\x89\xe8"  # mov %ebp, %eax
        b"\xc1\xe8\x0b"  # shr $11, %eax
        b"\x89\xeb"  # mov %ebp, %ebx
        b"\x81\xe3\xff\xff\xff\x1f"  # and $0x1fffffff, %ebx
        b"\x81\xcb\x00\x00\x00\xc0"  # or $0xc0000000, %ebx
        b"\xff\x05" + COUNT_ADDRESS.to_bytes(4, "little")  # incl count
        + b"\x0f\xba\xe5\x1f"  # bt $31, %ebp
        b"\x72\x0c"  # jc memory
        b"\x0f\xba\xe5\x1e"  # bt $30, %ebp
        b"\x72\x03"  # jc read
        b"\xee"  # out %al, %dx
        b"\xeb\x10"  # jmp next
        b"\xed"  # read: in %dx, %eax
        b"\xeb\x0d"  # jmp next
        b"\x0f\xba\xe5\x1e"  # memory: bt $30, %ebp
        b"\x72\x05"  # jc load
        b"\x66\x89\x03"  # mov %ax, (%ebx)
        b"\xeb\x02"  # jmp next
        b"\x8b\x03"  # load: mov (%ebx), %eax
        b"\x4e"  # next: dec %esi
        b"\x75\x99"  # jnz again
    )  # fmt: skip
    code = (code + SHUTDOWN_32).ljust(124, b"\xf4")
    assert len(code) == 124
    return code + struct.pack("<16H", *BASES)


def run_to_end(machine: Machine, ended: threading.Event, ring: Ring) -> None:
    events: list[Event] = []
    deadline = time.monotonic() + TIMEOUT
    machine.start()
    while not ended.wait(0.01):
        drain(ring, events)
        machine.sink_has_read()
        assert time.monotonic() < deadline, "the guest hangs"
    drain(ring, events)


def test_a_random_guest_ends_itself_at_most(build: Build, ring: Ring, seed: int) -> None:
    states, done = random.Random(seed), 0
    while done < ACCESSES * FACTOR:
        code = random_guest(states.randrange(1, 1 << 32), A_RUN)
        kernel = image_of(pvh_elf(code), "kernel")
        text = dict.fromkeys(("serial", "debug_console", "firmware_debug"), lambda _: None)
        machine, ended = build(kernel, boot=BootSource(kernel=kernel), **text)
        run_to_end(machine, ended, ring)
        done += int.from_bytes(machine.memory.read(COUNT_ADDRESS, 4), "little")
        machine.close()
        assert machine.outcome is not None
        assert machine.outcome.result in ENDS, machine.outcome
