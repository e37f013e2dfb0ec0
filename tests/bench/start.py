"""From the call of StartVM to the guest's first mark: through the unit, in a real systemd."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from container.container import Container

from tests.bench import peer, qemu
from tests.bench.installed import installed
from tests.bench.marks import names
from tests.bench.report import Figure, compare, measure
from tests.bench.stage import stage
from tests.guests import SLEEP, mark, rom

GUEST = rom(mark(0x40) + SLEEP)
INSIDE = "/srv/first_mark.py"
CALLER = Path(__file__).with_name("first_mark.py")


async def start(repeat: int) -> list[Figure]:
    """Cold through the unit, and with a VM process that waits; QEMU microvm beside."""
    with installed() as container:
        container.put("/guest.rom", GUEST)
        container.put(INSIDE, CALLER)
        _first_marks(container, "cold", 3)  # the exit cost and all caches
        cold, warm, theirs = [], [], []
        for _ in range(repeat):
            cold += _first_marks(container, "cold", 1)
            theirs.append(_qemu_first_mark())
            warm += _first_marks(container, "warm", 1)
    what = "StartVM to the first mark"
    return [
        measure("start", f"{what}, cold through its unit", cold, "ms", at_most=60),
        compare("start", f"{what}, cold, beside QEMU", cold, theirs, "ms", "QEMU microvm"),
        measure("start", f"{what}, process waits", warm, "ms", at_most=10),
        compare("start", f"{what}, waiting, beside QEMU", warm, theirs, "ms", "QEMU microvm"),
    ]


def _first_marks(container: Container, warm: str, count: int) -> list[float]:
    done = container.run("/usr/bin/python3", INSIDE, warm, *(next(names) for _ in range(count)))
    times: list[float] = json.loads(done.stdout)
    return times


async def start_child(repeat: int) -> list[Figure]:
    """Without systemd: a child of the daemon."""
    image, cold, theirs = peer.rom_file(GUEST, "first"), [], []
    async with stage() as playing:
        for _ in range(repeat):
            theirs.append(_qemu_first_mark())
            begin = time.monotonic_ns()
            path = await playing.start_vm(next(names), image)
            cold.append((await playing.first_mark_nsec(path) - begin) / 1e6)
            await playing.call(path, "org.chdebugd1.VM", "Remove")
    what = "StartVM to the first mark, without systemd"
    return [
        measure("start", what, cold, "ms", at_most=100),
        compare("start", f"{what}, beside QEMU", cold, theirs, "ms", "QEMU microvm"),
    ]


def _qemu_first_mark() -> float:
    """Milliseconds from the start of the process to its first mark."""
    image = peer.rom_file(qemu.flash_image(GUEST), "qemu-first")
    begin = time.monotonic_ns()
    command = qemu.command(image, "stdio", "microvm")
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\x40"
        took = time.monotonic_ns() - begin
        process.kill()
    return took / 1e6
