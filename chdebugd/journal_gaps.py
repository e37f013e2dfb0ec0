"""Finds the marks that journald lost when it was killed, and sends them again.

journald takes an entry out of its socket before it stores it, so a kill between the two loses one.
What it had not taken yet stays in the socket, which is systemd's, and the next journald stores it.
So what lacks is between the VM's last mark before journald's first entry and its first after that.
It comes into the journal behind its followers; SEQ has the order.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from chdebugd.journal_questions import ask, ask_with, has_stored, when_there_is_room
from chdebugd.recovery import about, codes, send
from chdebugd.trace.event import Event
from chdebugd.trace.journal import DEBUG, INFO, LEVELS, WARNING, Journal, MessageId, entry
from chdebugd.trace.journal_reader import (
    JournalledMark,
    journald_starts,
    marks_around,
    marks_sent_again,
)
from chdebugd.trace.journal_sink import entry_again
from chdebugd.trace.ring import CAPACITY, KEPT, Reader, Ring
from chdebugd.vm import VM

log = logging.getLogger(__name__)

SHOWN_WITHIN = 10.0  # seconds until an entry counts as lost, as the mark before it was
HOLD = 60.0  # seconds that a ring is held without another word
ROUNDS = 16  # looks until nothing lacks: each kill of journald may lose what was sent again


class Gap(NamedTuple):
    """What the journal lacks of one ring."""

    events: list[Event]
    lost: int
    """How many the ring has no more, either."""


@dataclass
class Watched:
    """One ring, held since journald died, on a descriptor of its own."""

    ring: Ring
    sent: int = 0
    """Its journal's position when journald had stored or lost all before."""
    is_told: bool = False


class JournalGaps:
    """Looks at all VMs that wrote when journald died, one look at a time."""

    def __init__(self, vms: Callable[[], Iterable[VM]]) -> None:
        """`vms` tells those whose marks may lack."""
        self._vms = vms
        self._watched: dict[VM, Watched] = {}
        self._deaths = 0
        self._task: asyncio.Task[None] | None = None

    async def look_back(self) -> None:
        """For what an earlier daemon had no time to see."""
        made = [vm.ring.created_nsec for vm in self._vms() if vm.ring]
        starts = await ask(journald_starts, min(made)) if made else []
        if starts:
            self.journald_died()

    def journald_died(self) -> None:
        """Keep what may lack, and look for it once journald is back."""
        self._deaths += 1
        rings = [vm.ring for vm in self._vms() if _may_lack(vm) and vm.ring]
        for ring in rings:
            ring.hold(HOLD)
        if (rings or self._watched) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        journal = await when_there_is_room(Journal)
        try:
            for _ in range(ROUNDS):
                deaths = self._deaths
                await self._watch()
                await self._wait_stored(journal)
                if not await self._send_again(journal) and deaths == self._deaths:
                    return
            log.error("journald died again and again, and marks of VMs may lack in the journal")
        finally:
            journal.close()
            watched, self._watched = self._watched, {}
            for each in watched.values():
                each.ring.release()
                each.ring.close()

    async def _watch(self) -> None:
        """Those that journald_died held, on descriptors of our own."""
        for vm in list(self._vms()):
            if vm not in self._watched and _may_lack(vm):
                ring = await when_there_is_room(partial(_own_ring, vm))
                if ring is not None:
                    self._watched[vm] = Watched(ring)

    async def _wait_stored(self, journal: Journal) -> None:
        """Until journald has stored or lost all that was sent before: it takes them in order."""
        while True:
            for each in self._watched.values():
                each.ring.hold(HOLD)
                each.sent = each.ring.position(Reader.JOURNAL)
            takeover_id = secrets.token_hex(16)
            fields = {"MESSAGE_ID": MessageId.JOURNALD_DIED.value, "TAKEOVER_ID": takeover_id}
            text = "journald has died; chdebugd looks for marks that it held and had not stored"
            await send(journal, entry(text, INFO, fields))
            if await has_stored(takeover_id, SHOWN_WITHIN):
                return

    async def _send_again(self, journal: Journal) -> bool:
        """Whether something lacked."""
        lacked = False
        for vm, each in list(self._watched.items()):
            gap = await ask_with(partial(_look_for_gap, vm, each))
            names = codes(vm.options.request.code_map)
            for event in gap.events:
                boot_id = each.ring.boot_id(event.boot)
                await send(journal, entry_again(event, vm.name, boot_id, names))
            if any(gap) and not each.is_told:
                each.is_told = True
                await send(journal, _told(vm, gap))
            lacked = lacked or bool(gap.events)
        return lacked

    def close(self) -> None:
        """Hold nothing any more; the next daemon looks back."""
        if self._task is not None:
            self._task.cancel()


def _told(vm: VM, gap: Gap) -> bytes:
    count = len(gap.events)
    text = f"journald lost {count + gap.lost} marks of VM '{vm.name}' when it died; {count} follow"
    fields = about(vm.name, MessageId.SENT_AGAIN, vm.counts.boot_id)
    return entry(text, WARNING, fields | {"RECOVERED": str(count), "LOST": str(gap.lost)})


def _may_lack(vm: VM) -> bool:
    """Whether its marks go to the journal."""
    return LEVELS[vm.options.request.log_level] >= DEBUG


def _own_ring(vm: VM) -> Ring | None:
    return vm.ring.duplicate() if vm.ring else None


def _look_for_gap(vm: VM, each: Watched) -> Callable[[], Gap]:
    return partial(find_gap, each.ring.duplicate(), vm.name, each.sent)


def find_gap(ring: Ring, vm: str, sent: int) -> Gap:
    """What the journal lacks around journald's starts of the events of `ring` before `sent`.

    Closes `ring`. A gap beyond what journald's socket and hands can hold has another cause.
    """
    with contextlib.closing(ring):
        events: list[Event] = []
        lost = 0
        for cursor in journald_starts(ring.created_nsec):
            before, after = marks_around(cursor, vm)
            first = _ticket(ring, before, 0)
            last = _ticket(ring, after, sent + 1)
            if first is not None and last is not None and 0 < last - 1 - first <= KEPT:
                found = _events(ring, first, last - 1)
                events += found
                lost += last - 1 - first - len(found)
        if not events:
            return Gap([], lost)
        again = marks_sent_again(vm)
        has = [JournalledMark(ring.boot_id(each.boot), each.seq) in again for each in events]
        return Gap(
            [event for event, is_there in zip(events, has, strict=True) if not is_there], lost
        )


def _ticket(ring: Ring, mark: JournalledMark | None, otherwise: int) -> int | None:
    """The ticket of an event that the journal has; None where the ring has nothing of its boot."""
    boot = ring.boot_of(mark.boot_id) if mark else None
    if mark is None or boot is None:
        return otherwise
    places = range(max(ring.head - CAPACITY, 0), ring.head)
    at = bisect.bisect_left(places, boot, key=lambda place: _boot_at(ring, place))
    found, _ = ring.copy(places[at], 1) if at < len(places) else ([], 0)
    if not found or found[0].boot != boot:
        return None
    return found[0].ticket - found[0].seq + mark.seq


def _boot_at(ring: Ring, place: int) -> int:
    found, _ = ring.copy(place, 1)
    return found[0].boot if found else ring.boot


def _events(ring: Ring, first: int, last: int) -> list[Event]:
    """The whole ones among the places from `first` up to and without `last`."""
    events: list[Event] = []
    while first < last:
        found, _ = ring.copy(first, last - first)
        found = [event for event in found if event.ticket <= last]
        if not found:
            break
        events += found
        first = found[-1].ticket
    return events
