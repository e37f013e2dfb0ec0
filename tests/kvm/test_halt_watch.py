"""The watch for guests that halted for good: it finds them, and lets a sleeping guest sleep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from chdebugd.halt_watch import HaltWatch
from chdebugd.vm_loop import VmLoop
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from tests.guests import CLI_HLT, PROLOGUE_SIZE, SLEEP, mark

pytestmark = pytest.mark.kvm
Build = Callable[..., tuple[Machine, threading.Event]]

TIMEOUT = 60  # seconds
HANDLER_AT = 0x200
DIES_OF_INPUT = (
    (
        b"\xc7\x06\x90\x00"
        + (0xF000 + HANDLER_AT).to_bytes(2, "little")  # movw $handler, 0x90  (vector 0x24: IRQ 4)
        + b"\xc7\x06\x92\x00\x00\xf0"  # movw $0xf000, 0x92
        b"\xbc\x00\x10"  # mov $0x1000, %sp
        b"\xb0\x11\xe6\x20"  # mov $0x11, %al; out %al, $0x20     (PIC: ICW1)
        b"\xb0\x20\xe6\x21"  # mov $0x20, %al; out %al, $0x21     (first vector)
        b"\xb0\x04\xe6\x21"  # mov $4, %al; out %al, $0x21
        b"\xb0\x01\xe6\x21"  # mov $1, %al; out %al, $0x21
        b"\xb0\xef\xe6\x21"  # mov $0xef, %al; out %al, $0x21     (only IRQ 4)
        b"\xba\xf9\x03\xb0\x01\xee"  # mov $0x3f9, %dx; mov $1, %al; out %al, %dx   (IER: input)
        b"\xba\xfc\x03\xb0\x08\xee"  # mov $0x3fc, %dx; mov $8, %al; out %al, %dx   (MCR: OUT2)
         + mark(0x40) + SLEEP
    ).ljust(HANDLER_AT - PROLOGUE_SIZE, b"\xf4")
    + mark(0x41)
    + CLI_HLT
)


def when(loop: VmLoop, condition: Callable[[], bool], then: Callable[[], None]) -> None:
    """Call `then` from the loop once the condition holds."""
    deadline = time.monotonic() + TIMEOUT

    def look() -> None:
        if condition():
            then()
            return
        assert time.monotonic() < deadline
        loop.call_later("look", 0.01, look)

    look()


def test_a_guest_that_halts_for_good_is_found(build: Build) -> None:
    machine, ended = build(CLI_HLT)
    loop = VmLoop()
    machine.start()
    HaltWatch(loop, lambda: True).begin(machine)

    when(loop, ended.is_set, loop.stop)
    loop.run()

    assert machine.outcome is not None
    assert machine.outcome.result == Result.HALTED


def test_a_sleeping_guest_is_left_alone_until_something_stirs_it(build: Build) -> None:
    machine, ended = build(DIES_OF_INPUT)
    loop = VmLoop()
    watch = HaltWatch(loop, lambda: True)

    def type_a_key() -> None:
        watch.stirred(machine)
        machine.serial.receive(b"!")
        when(loop, ended.is_set, loop.stop)

    machine.start()
    watch.begin(machine)
    when(loop, lambda: watch.rests, type_a_key)
    loop.run()

    assert machine.outcome is not None
    assert machine.outcome.result == Result.HALTED
