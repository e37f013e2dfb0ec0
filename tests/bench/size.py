"""Memory, many VMs, and how often an idle process wakes."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

from tests.bench import peer, qemu
from tests.bench.marks import BURST, names
from tests.bench.report import Figure, measure, percentile
from tests.bench.stage import MANAGER, Stage, stage
from tests.guests import SLEEP, burst, mark, rom

GUEST = rom(mark(0x40) + SLEEP)
TIMER_GUEST = rom(
    b"\xb0\xff\xe6\x21"  # mov $0xff, %al; out %al, $0x21     (no IRQ comes through)
    b"\xb0\x34\xe6\x43"  # mov $0x34, %al; out %al, $0x43     (PIT: rate generator)
    b"\xb0\x00\xe6\x40\xe6\x40" + mark(0x40) + SLEEP  # mov $0, %al; out %al, $0x40; out %al, $0x40
)
GUEST_MEMORY = 1 << 20  # bytes
VMS = 20
MANY = 200
SETTLES = 20  # seconds until all signals are sent
SETTLES_IDLE = 65  # seconds until a guest that sleeps with a timer is hardly looked at
IDLE = 60  # seconds that wake-ups are counted


def proportional_kib(pid: int, *, without: int = 0) -> int:
    """PSS of a process, less that of mappings of `without` bytes: its guest's memory."""
    total = size = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            low, high = words[0].split("-")
            size = int(high, 16) - int(low, 16)
        elif words[0] == "Pss:" and size != without:
            total += int(words[1])
    return total


def grown_kib(pid: int) -> int:
    """PSS without pages of files: of them each new process takes a share away."""
    kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            kib += int(line.split()[1])
    return kib


def resident_kib(pid: int) -> int:
    """RSS of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1])


async def memory(repeat: int) -> list[Figure]:
    """20 VMs that idle after a ring full of marks; and QEMU microvm with a guest that idles."""
    image = peer.rom_file(rom(burst(BURST) + SLEEP), "idle-full")
    idle, each, more, theirs = [], [], [], []
    for _ in range(repeat):
        async with stage() as playing:
            idle.append(resident_kib(playing.daemon.pid) / 1024)
            await playing.start_vm(next(names), image)
            await asyncio.sleep(SETTLES)
            before = grown_kib(playing.daemon.pid)
            for _ in range(VMS - 1):
                await playing.start_vm(next(names), image)
            await asyncio.sleep(SETTLES)
            more.append((grown_kib(playing.daemon.pid) - before) / (VMS - 1))
            sizes = [proportional_kib(pid, without=GUEST_MEMORY) for pid in playing.vm_pids()]
            each.append(percentile(sizes, 50) / 1024)
        theirs.append(await asyncio.to_thread(_qemu_mib))
    return [
        measure("memory", "idle daemon, resident", idle, "MiB", at_most=40),
        measure("memory", "a VM process of 20, proportional", each, "MiB", at_most=12),
        measure("memory", "the daemon, more for each VM", more, "KiB", at_most=64),
        measure("memory", "QEMU microvm of 20, proportional", theirs, "MiB"),
    ]


def _qemu_mib() -> float:
    image = peer.rom_file(qemu.flash_image(GUEST), "qemu-idle")
    command = qemu.command(image, "null", "microvm")
    guest = 16 << 20
    run = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(VMS)]
    time.sleep(2)
    sizes = [proportional_kib(each.pid, without=guest) for each in run]
    for each in run:
        each.kill()
        each.wait()
    return percentile(sizes, 50) / 1024


async def many(repeat: int) -> list[Figure]:
    """200 VMs: is the last one started as fast as the first, and are they listed at once?"""
    image = peer.rom_file(GUEST, "idle")
    ratios, lists = [], []
    for _ in range(repeat):
        async with stage() as playing:
            times = [await _start_msec(playing, image) for _ in range(MANY)]
            ratios.append(percentile(times[-10:], 50) / percentile(times[:10], 50))
            lists.append(percentile([await _list_msec(playing) for _ in range(50)], 50))
    return [
        measure("many", "StartVM at the 200th, times the 1st", ratios, "x", at_most=1.5),
        measure("many", "ListVMs with 200", lists, "ms", at_most=10),
    ]


async def _start_msec(playing: Stage, image: Path) -> float:
    start = time.monotonic_ns()
    await playing.start_vm(next(names), image)
    return (time.monotonic_ns() - start) / 1e6


async def _list_msec(playing: Stage) -> float:
    start = time.monotonic_ns()
    [vms] = await playing.call(*MANAGER, "ListVMs")
    assert len(vms) == MANY
    return (time.monotonic_ns() - start) / 1e6


def wakeups(pid: int) -> int:
    """How often the threads of a process went to sleep so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return total


async def idle(repeat: int) -> list[Figure]:
    """Wake-ups a second, of a daemon with one VM and of that VM's process.

    KVM does not tell that a guest halted for good. The process looks for that soon after the
    start, and no more where the guest has no timer of its own: only the process could wake it
    then. Beside a guest with a timer it wakes for a clock each 32 seconds, and each 5 minutes for
    a look that takes 8 wake-ups.
    """
    images = [peer.rom_file(GUEST, "idle"), peer.rom_file(TIMER_GUEST, "timer")]
    async with stage() as playing:
        watched = [playing.daemon.pid]
        for image in images:
            await playing.start_vm(next(names), image)
            watched += set(playing.vm_pids()) - set(watched)
        await asyncio.sleep(SETTLES_IDLE)
        rounds = [await _wakeup_rates(watched) for _ in range(repeat)]
    daemon, process, timer = zip(*rounds, strict=True)
    return [
        measure("idle", "wake-ups of the daemon", daemon, "/s", at_most=0),
        measure("idle", "wake-ups of a VM process", process, "/s", at_most=0),
        measure("idle", "the same, the guest has set a timer", timer, "/s"),
    ]


async def _wakeup_rates(pids: list[int]) -> list[float]:
    before = [wakeups(pid) for pid in pids]
    await asyncio.sleep(IDLE)
    return [(wakeups(pid) - count) / IDLE for pid, count in zip(pids, before, strict=True)]
