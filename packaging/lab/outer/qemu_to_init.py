#!/usr/bin/python3
"""qemu_to_init.py KERNEL INITRD CODE: seconds from QEMU's `cont` to CODE on port 0x80."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY_MIB = "512"
CMDLINE = "quiet rdinit=/chdebug-init panic=-1"


def command(kernel: str, initrd: str, monitor: str, marks: int) -> list[str]:
    """A microvm with one vCPU, its serial port off, that waits for `cont`."""
    words = ["qemu-system-x86_64", "-M", "microvm,isa-serial=off", "-accel", "kvm", "-cpu", "host"]
    words += ["-m", MEMORY_MIB, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-S", "-qmp", f"unix:{monitor},server=on,wait=off"]
    words += ["-kernel", kernel, "-initrd", initrd, "-append", CMDLINE]
    words += ["-chardev", f"file,id=marks,path=/dev/fd/{marks}"]
    return [*words, "-device", "isa-debugcon,iobase=0x80,chardev=marks"]


def main() -> None:
    """Print the time."""
    kernel, initrd, code = sys.argv[1:]
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory() as place:
        monitor = str(Path(place) / "monitor")
        words = command(kernel, initrd, monitor, writer)
        with subprocess.Popen(words, pass_fds=[writer], stderr=sys.stderr) as qemu:
            os.close(writer)
            hand = connect(monitor)
            start = time.monotonic()
            hand.sendall(b'{"execute": "cont"}\n')
            wait_for(reader, int(code, 0))
            print(time.monotonic() - start)
            qemu.kill()
            hand.close()


def connect(path: str) -> socket.socket:
    """The monitor, once it listens and has agreed on what it can."""
    hand = socket.socket(socket.AF_UNIX)
    while True:
        try:
            hand.connect(path)
            break
        except OSError:
            time.sleep(0.05)
    answers = hand.makefile("r")
    answers.readline()
    hand.sendall(b'{"execute": "qmp_capabilities"}\n')
    assert "return" in json.loads(answers.readline())
    return hand


def wait_for(reader: int, code: int) -> None:
    """Until this byte comes; others are Linux's own."""
    while byte := os.read(reader, 1):
        if byte[0] == code:
            return
    raise SystemExit("QEMU ended before the guest made its mark")


main()
