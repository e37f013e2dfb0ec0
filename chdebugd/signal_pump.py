"""From a VM's ring to the bus: when to read, how much at once, and how far the bus has it."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Protocol

from chdebugd.counts import Counts
from chdebugd.trace.event import Event
from chdebugd.trace.pace import LOOK, Pace
from chdebugd.trace.ring import BATCH, Reader, Ring

log = logging.getLogger(__name__)

LINGER = 0.0005  # seconds until the pump looks again before it sleeps
BURST_GAP = BATCH / 25_000  # seconds between two batches while the guest writes: signals a second
FULL_CHECK = 0.1  # seconds between two looks at what a waiting or dropping guest counts


class Outlet(Protocol):
    """Where the events go: the VM."""

    @property
    def has_room(self) -> bool:
        """Whether events can be taken now; pump again when they can."""

    @property
    def has_process(self) -> bool:
        """Whether somebody still writes into the ring."""

    def events(self, events: list[Event]) -> None:
        """Events to signal, in order."""

    def counts_changed(self) -> None:
        """Events came, were dropped or skipped, or the guest waited."""


class SignalPump:
    """Reads one VM's ring. Without a ring until `take` or `attach`."""

    def __init__(self, name: str, outlet: Outlet) -> None:
        """`name` is the VM's."""
        self.ring: Ring | None = None
        self.boots_before = 0
        """Boots of the VM's earlier processes."""
        self._name = name
        self._outlet = outlet
        self._wake_fd = -1
        self._pace = Pace()
        self._is_draining = False
        self._released = 0
        self._handed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last_counts = self._told_counts = Counts()

    @property
    def counts(self) -> Counts:
        """From the ring, or what it said last."""
        return Counts.of(self.ring) if self.ring else self._last_counts

    def restore(self, counts: Counts) -> None:
        """What was known last."""
        self._last_counts = counts

    def take(self, fds: list[int]) -> None:
        """The ring and the eventfd of a hello, in this order; takes out of `fds` what it keeps."""
        if self.ring is None or not os.path.sameopenfile(self.ring.fd, fds[0]):
            self._take_ring(fds)
        if self._wake_fd < 0:
            self._watch_wakes(fds.pop())

    def attach(self, ring: Ring) -> None:
        """Read this ring from now on; it belongs to the VM."""
        before = self.counts
        self.close()
        if ring.boot_id(before.boots) != before.boot_id:
            self.boots_before += before.boots  # they were another process's
        self.ring, self._released = ring, 0
        self._handed = ring.position(Reader.SIGNALS)

    def _take_ring(self, fds: list[int]) -> None:
        """The ring of another version of chdebugd cannot be read; its guest runs on."""
        try:
            ring = Ring(fds[0])
        except ValueError:
            log.warning(
                "VM '%s' was started by another version of chdebugd: its marks are in the journal "
                "and not on the bus until it is started again",
                self._name,
            )
            return
        del fds[0]
        self.attach(ring)

    def _watch_wakes(self, eventfd: int) -> None:
        self._wake_fd = eventfd
        asyncio.get_running_loop().add_reader(eventfd, self._woken)

    def _woken(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return
        self.pump()

    def pump(self) -> None:
        """Hand one batch on where the bus has room, and come back as the ring needs."""
        self._cancel()
        ring = self.ring
        if ring is None or not self._outlet.has_room:
            return
        position = self._handed
        held = self._pace.holds(asyncio.get_running_loop().time(), ring.head, position)
        if held and not self._is_draining:
            self._pump_after(LOOK)
            return
        events, lost = ring.copy(position)
        if not events and not lost and not self._outlet.has_process and position < ring.head:
            lost = 1  # torn by the death of a vCPU, and nobody mends it
        if lost:
            ring.skip(lost)
            self._handed = position + lost
            ring.move(Reader.SIGNALS, self._handed)
        if events:
            self._handed = events[-1].ticket
            self._outlet.events(events)
        self._tell_counts()
        self._rest(ring, len(events) == BATCH or lost > 0, bool(events))

    def confirm(self, ring: Ring, ticket: int) -> None:
        """The bus has all signals up to `ticket`: a next daemon need not send them again."""
        if self.ring is ring and ticket > ring.position(Reader.SIGNALS):
            ring.move(Reader.SIGNALS, ticket)

    def take_back(self, ring: Ring, ticket: int) -> None:
        """The bus did not take the signals after `ticket`."""
        if self.ring is ring:
            self._handed = ticket

    def _tell_counts(self) -> None:
        counts = self.counts
        if counts != self._told_counts:
            self._told_counts = counts
            self._outlet.counts_changed()

    def _rest(self, ring: Ring, more: bool, busy: bool) -> None:
        """Look again soon where events came, so that a burst wakes us once; else sleep."""
        self._is_draining = more
        if more:
            self._pump_after(BURST_GAP if self._pace.is_burst else 0)
        elif busy or not ring.sleep(Reader.SIGNALS, self._handed):
            self._pump_after(LINGER)
        else:
            self._sleep(ring)

    def _sleep(self, ring: Ring) -> None:
        """Until the guest's next mark."""
        if ring.is_full:
            self._pump_after(FULL_CHECK)
        if ring.head - self._released >= BATCH:  # or all that was read would count as our memory
            self._released = ring.head
            ring.release_pages()

    def events_after(self, seq: int, limit: int) -> list[Event]:
        """Events of this boot with a number above `seq`, as far back as the ring reaches."""
        ring = self.ring
        if ring is None:
            return []
        events: list[Event] = []
        position = min(ring.first_ticket + seq, ring.head)
        while len(events) < limit:
            batch, _ = ring.copy(position, limit - len(events))
            if not batch:
                break
            events += [event for event in batch if event.boot == ring.boot]
            position = batch[-1].ticket
        return events

    def close(self) -> None:
        """Let go of the ring; the counts stay."""
        self._last_counts = self.counts
        self._cancel()
        wake_fd, self._wake_fd = self._wake_fd, -1
        if wake_fd >= 0:
            asyncio.get_running_loop().remove_reader(wake_fd)
            os.close(wake_fd)
        ring, self.ring = self.ring, None
        if ring is not None:
            ring.move(Reader.SIGNALS, self._handed)
            ring.close()

    def _pump_after(self, seconds: float) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.pump)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
