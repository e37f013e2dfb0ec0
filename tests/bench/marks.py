"""What a mark costs the guest: from one exit to the next, stamped right behind KVM_RUN."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from chdebugd.dbus_library import Variant
from chdebugd.trace.ring import CAPACITY, KEPT
from tests.bench import peer, qemu
from tests.bench.journald import private_journald
from tests.bench.report import Figure, compare, percentile
from tests.bench.stage import MANAGER, Stage, stage
from tests.guests import FOREVER, SHUTDOWN, burst, rom

BURST = CAPACITY - KEPT - 512  # marks; they fit the ring
FEW = 1000
names = (f"vm{number}" for number in itertools.count())


async def burst_deltas(playing: Stage, image: Path, marks: int, *, listened: bool) -> list[int]:
    """The cost of each mark of one guest with all sinks on."""
    name = next(names)
    path = f"/org/chdebugd1/vm/{name}"
    with peer.subscriber(playing.address, path, marks) as subscriber:
        await playing.start_vm(name, image, log_file=Variant("s", f"{name}.log"))
        if listened:
            notes = await asyncio.to_thread(subscriber.notes)
            assert [note.seq for note in notes] == list(range(1, marks + 1))
        await playing.wait_ended(path)
    await playing.call(path, "org.chdebugd1.VM", "Remove")
    stamps = playing.log_stamps(f"{name}.log")
    assert len(stamps) == marks
    return peer.deltas(stamps)


async def mark(repeat: int) -> list[Figure]:
    """Bursts up to the ring's size, journal, log file and a subscriber on."""
    image = peer.rom_file(rom(burst(BURST) + SHUTDOWN), "burst")
    ours, theirs, qemus = [], [], []
    with private_journald() as journald:
        async with stage(journald.socket) as playing:
            for _ in range(repeat):
                theirs.append(peer.deltas(peer.bare_loop(image, BURST)))
                ours.append(await burst_deltas(playing, image, BURST, listened=True))
                qemus.append(await asyncio.to_thread(_qemu_mean))
    costs = figures("mark", ours, theirs, (1.03, 1.10))
    means = [statistics.mean(each) for each in theirs]
    what = "QEMU isa-debugcon to a file, mean"
    return [*costs, compare("mark", what, qemus, means, "ns", "bare C loop, mean")]


def figures(
    row: str, ours: list[list[int]], theirs: list[list[int]], targets: tuple[float, float]
) -> list[Figure]:
    """Median and 99th percentile beside the bare loop's, with their targets."""
    costs = []
    for percent, what, target in ((50, "median", targets[0]), (99, "99th percentile", targets[1])):
        mine = [percentile(each, percent) for each in ours]
        others = [percentile(each, percent) for each in theirs]
        what = f"cost of a mark, {what}"
        costs.append(compare(row, what, mine, others, "ns", "bare C loop", at_most=target))
    return costs


def _qemu_mean() -> float:
    """From the difference of two runs: what starts and ends QEMU is in both."""
    output = Path(peer.rom_file(b"", "marks"))
    times = []
    for marks in (FEW, FEW + BURST):
        code = rom(burst(marks) + SHUTDOWN)
        image = peer.rom_file(qemu.flash_image(code), f"qemu-{marks}")
        times.append(qemu.run_nsec(image, output))
        assert output.stat().st_size == marks
    return (times[1] - times[0]) / BURST


async def mark_load(repeat: int) -> list[Figure]:
    """The same with three guests that spin and a daemon that answers without a pause."""
    image = peer.rom_file(rom(burst(BURST) + SHUTDOWN), "burst")
    ours, theirs = [], []
    with private_journald() as journald:
        async with stage(journald.socket) as playing, _load(playing):
            for _ in range(repeat):
                run = asyncio.to_thread(peer.bare_loop, image, BURST)
                theirs.append(peer.deltas(await run))
                ours.append(await burst_deltas(playing, image, BURST, listened=False))
    return figures("mark-load", ours, theirs, (1.10, 1.10))


@asynccontextmanager
async def _load(playing: Stage) -> AsyncIterator[None]:
    image = peer.rom_file(rom(FOREVER), "spin")
    for _ in range(3):
        await playing.start_vm(next(names), image)

    async def ask() -> None:
        while True:
            await playing.call(*MANAGER, "ListVMs")

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):  # another end of it was no load, and is an error
            await asking
