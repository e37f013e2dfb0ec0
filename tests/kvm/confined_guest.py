"""Run by test_filter.py in a process of its own: a guest whose text port makes one system call."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from chdebugd.trace.ring import Ring
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.kvm import Kvm, init_signals
from chdebugd.vmm.layout import FIRMWARE_DEBUG
from chdebugd.vmm.machine import Machine, MachineConfig, Wakers
from tests.guests import SHUTDOWN, rom
from tests.kvm.conftest import MIB, image_of

PROT_READ, PROT_EXEC, MAP_PRIVATE, MAP_ANONYMOUS = 1, 4, 2, 0x20
NATIVE = ctypes.CDLL(None)
KVM = Kvm.open()
CALLS: dict[str, Callable[[], object]] = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "socket": lambda: socket.socket(socket.AF_UNIX),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "kill": lambda: os.kill(1, 0),
    "prctl": lambda: NATIVE.prctl(15, b"vcpu", 0, 0, 0),
    "executable memory": lambda: NATIVE.mmap(
        None, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
    ),
    "ioctl": lambda: KVM.create_vm().close(),
    "nothing": lambda: None,
}
WRITE_TEXT = (
    b"\xba" + FIRMWARE_DEBUG.to_bytes(2, "little")  # mov $FIRMWARE_DEBUG, %dx
    + b"\xee"  # out %al, %dx
)  # fmt: skip


def main(call: str) -> None:
    """Exit by EXIT_FORBIDDEN or, where the call is let through, 0."""

    def write_text(_: bytes) -> None:
        CALLS[call]()

    init_signals()
    ring, ended = Ring.create(), threading.Event()
    ring.start_boot(time.monotonic_ns(), time.monotonic_ns())
    machine = Machine(
        KVM,
        MachineConfig(
            memory=16 * MIB,
            cpus=1,
            boot=BootSource(firmware=image_of(rom(WRITE_TEXT + SHUTDOWN))),
            firmware_debug=write_text,
        ),
        ring,
        Wakers(os.eventfd(0), os.eventfd(0)),
        ended=ended.set,
        phase=lambda _: None,
    )
    machine.start()
    ended.wait()
    machine.close()
    print(machine.outcome)


if __name__ == "__main__":
    main(sys.argv[1])
