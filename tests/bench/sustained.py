"""Sinks that must keep up with a guest that never stops writing marks."""

from __future__ import annotations

import asyncio

from chdebugd.dbus_library import Variant
from tests.bench import peer
from tests.bench.journald import Journald, private_journald
from tests.bench.marks import names
from tests.bench.report import Figure, compare
from tests.bench.stage import Stage, stage
from tests.guests import SHUTDOWN, burst, rom

LINES = 400_000
ENTRIES = 400_000  # several times the ring: what it holds back at first weighs little
NO_EVENTS = Variant("s", "info")  # a log level under which events do not go to the journal


def rate(stamps: list[int]) -> float:
    """Marks a second."""
    return (len(stamps) - 1) / (stamps[-1] - stamps[0]) * 1e9


async def log(repeat: int) -> list[Figure]:
    """The log file only, from the first mark to the last; every line is there."""
    image = peer.rom_file(rom(burst(LINES) + SHUTDOWN), "lines")
    ours, theirs = [], []
    async with stage() as playing:
        for _ in range(repeat):
            theirs.append(rate(await asyncio.to_thread(peer.bare_loop, image, LINES)))
            name = next(names)
            log_file = Variant("s", f"{name}.log")
            path = await playing.start_vm(name, image, log_file=log_file, log_level=NO_EVENTS)
            await playing.wait_ended(path)
            stamps = playing.log_stamps(f"{name}.log")
            assert len(stamps) == LINES
            ours.append(rate(stamps))
    what = "sustained, log file only"
    return [compare("log", what, ours, theirs, "marks/s", "bare C loop", at_least=0.95)]


async def journal(repeat: int) -> list[Figure]:
    """The journal only, from journald's receipt of the first entry to that of the last."""
    image = peer.rom_file(rom(burst(ENTRIES) + SHUTDOWN), "entries")
    ours, theirs = [], []
    with private_journald() as journald:
        async with stage(journald.socket) as playing:
            for _ in range(repeat):
                name = next(names)
                command = [peer.program("journal_loop"), str(ENTRIES), name]
                await asyncio.to_thread(journald.run, command)
                theirs.append(_received(journald, name))
                ours.append(await _entries(playing, journald, next(names), image))
    what, loop = "sustained into the journal", "loop of sd_journal_sendv"
    return [compare("journal", what, ours, theirs, "entries/s", loop, at_least=0.90)]


async def _entries(playing: Stage, journald: Journald, name: str, image: object) -> float:
    path = await playing.start_vm(name, image)  # type: ignore[arg-type]
    await playing.wait_ended(path)
    return _received(journald, name)


def _received(journald: Journald, vm: str) -> float:
    """Entries a second; none is lost."""
    journald.settle(vm, ENTRIES)
    return (ENTRIES - 1) / journald.took_nsec(vm) * 1e9
