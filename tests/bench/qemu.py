"""QEMU as the peer: the same ROM, port 0x80 as a debug console."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.bench import patience

QEMU = "qemu-system-x86_64"
FLASH = 64 * 1024  # QEMU takes firmware in multiples of this


def flash_image(rom: bytes) -> bytes:
    """A ROM as QEMU wants it; the reset vector stays at the end."""
    return rom.rjust(FLASH, b"\xf4")


def command(rom: Path, chardev: str, machine: str = "pc") -> list[str]:
    """QEMU with nothing but the debug console at 0x80; a write to port 0x600 ends it."""
    debug = ["-device", "isa-debugcon,iobase=0x80,chardev=marks"]
    end = ["-device", "isa-debug-exit,iobase=0x600,iosize=1"]
    common = ["-accel", "kvm", "-m", "16", "-nodefaults", "-display", "none"]
    return [
        *(QEMU, "-M", machine, *common, "-bios", str(rom)),
        *("-chardev", f"{chardev},id=marks", *debug, *end),
    ]


def serial_command(rom: Path, chardev: str) -> list[str]:
    """QEMU with COM1 on a chardev."""
    serial = ["-chardev", f"{chardev},id=serial", "-serial", "chardev:serial"]
    return command(rom, "null") + serial


def run_nsec(rom: Path, output: Path) -> int:
    """How long QEMU takes to run a guest to its end, its marks in a file."""
    start = time.monotonic_ns()
    arguments = command(rom, f"file,path={output}")
    with patience.running("The end of QEMU's guest"):
        limit = patience.SECONDS
        subprocess.run(arguments, check=False, stderr=subprocess.DEVNULL, timeout=limit)
    return time.monotonic_ns() - start
