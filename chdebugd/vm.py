"""One VM as the daemon sees it: the line to its process, its files, and its ring.

The VM's own process decides its state (vm_life.py); what is here mirrors it, feeds the signals,
and says when the process is dead.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from chdebugd.control import Message, StartRequest, Status
from chdebugd.counts import Counts
from chdebugd.errors import (
    ChdebugdError,
    NotRespondingError,
    StartFailedError,
    WrongStateError,
)
from chdebugd.files import OpenFile
from chdebugd.options import VmOptions
from chdebugd.state import ENDED, State
from chdebugd.trace.event import Event
from chdebugd.trace.pace import LOOK, Pace
from chdebugd.trace.ring import BATCH, Reader, Ring
from chdebugd.vm_link import ANSWER_TIMEOUT, GONE, SILENT, VmLink
from chdebugd.vmm.outcome import GOOD, Result

log = logging.getLogger(__name__)

LINGER = 0.0005  # seconds until the pump looks again before it sleeps
BURST_GAP = BATCH / 25_000  # seconds between two batches while the guest writes: signals a second
FULL_CHECK = 0.1  # seconds between two looks at what a waiting or dropping guest counts
RECONNECT = 0.5  # seconds until a broken line is made anew


class Listener(Protocol):
    """Who is told what happens to a VM."""

    def greeted(self, vm: VM, keep: dict[str, Any]) -> None:
        """Its process said hello, and gave back what it was to keep."""

    def events(self, vm: VM, events: list[Event]) -> None:
        """Events to signal, in order."""

    def status_changed(self, vm: VM) -> None:
        """State, result or terminals changed."""

    def counts_changed(self, vm: VM) -> None:
        """Events came, were dropped or skipped, or the guest waited."""

    def process_gone(self, vm: VM) -> None:
        """The VM process is dead, and all that it said has been told."""

    def has_room(self, vm: VM) -> bool:
        """Whether signals of this VM can be sent now; pump again when they can."""


class VM:
    """A VM by name. Without a process before `connect` and after its end."""

    def __init__(self, name: str, options: VmOptions, listener: Listener, owner: int) -> None:
        """`owner` is the user who started it."""
        self.name = name
        self.options = options
        self.owner = owner
        self.files: list[OpenFile] = []
        self.requested_nsec = 0
        self.kill_requested = False
        self.is_known = True
        """False where an earlier daemon made it, and nothing but its socket is left."""
        self.has_options = True
        """False where another version made it, with options that this one does not take."""
        self.status = Status()
        self.ring: Ring | None = None
        self.boots_before = 0
        self._listener = listener
        self._path = Path()
        self._link: VmLink | None = None
        self._gone = asyncio.Event()
        self._wake_fd = -1
        self._pace = Pace()
        self._is_draining = False
        self._released = 0
        self._handed = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._last_counts = self._told_counts = Counts()

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return State(self.status.state)

    @property
    def has_ended(self) -> bool:
        """Whether it is stopped or failed."""
        return self.state in ENDED

    @property
    def boot_count(self) -> int:
        """Boots since the VM was made, over all its processes."""
        return self.boots_before + self.counts.boots

    @property
    def counts(self) -> Counts:
        """From the ring, or what it said last."""
        return Counts.of(self.ring) if self.ring else self._last_counts

    def restore(self, status: Status, counts: Counts) -> None:
        """What was known of it last; the ring, where there is one, knows the counts better."""
        self.status, self._last_counts = status, counts

    # The process

    @property
    def has_process(self) -> bool:
        """Whether a process of it is known to live."""
        return self._link is not None

    def connect(self, path: Path) -> None:
        """Make a line to the process that listens at `path`.

        Raises NotRespondingError where it lets nobody in, OSError where there is no process.
        """
        link = VmLink(self.name, path, self)
        self._drop_link()
        self._link, self._path = link, path
        self._gone.clear()

    async def wait_greeted(self, within: float = ANSWER_TIMEOUT) -> None:
        """Until the process said hello; raises NotRespondingError or StartFailedError."""
        if self._link is not None:
            done, _ = await asyncio.wait([self._link.greeted], timeout=within)
            if not done:
                raise NotRespondingError(SILENT.format(self.name))
            if done.pop().result():
                return
        raise StartFailedError(GONE.format(self.name))

    async def wait_gone_or_greeted(self) -> None:
        """Until the process has said hello or died, however long it takes."""
        if self._link is not None:
            await asyncio.wait([self._link.greeted])

    async def wait_gone(self, within: float) -> bool:
        """Whether its process is dead after at most `within` seconds."""
        if self._link is not None:
            waiting = asyncio.ensure_future(self._gone.wait())
            await asyncio.wait([waiting], timeout=within)
            waiting.cancel()
        return self._link is None

    async def start(self, request: StartRequest, within: float) -> None:
        """Boot; returns once vCPU 0 enters the guest. Raises what the VM process answers."""
        fds = [file.fd for file in self.files]
        await self.call("start", fds, within=within, **request.to_message())

    async def call(
        self,
        op: str,
        fds: list[int] | None = None,
        *,
        within: float | None = ANSWER_TIMEOUT,
        **given: Any,
    ) -> None:
        """One request to the process; raises what it answers, WrongStateError or as VmLink.call."""
        if self._link is None or self.has_ended:
            raise WrongStateError(f"VM '{self.name}' is {self.state}; start it first")
        await self._link.call(op, fds or [], within=within, **given)

    def kill_process(self) -> None:
        """SIGKILL; nothing where there is none."""
        if self._link is not None:
            self._link.kill()

    def change_log(self, fd: int) -> None:
        """Its process writes log lines into this file from now on; `fd` is the VM's."""
        for at, file in enumerate(self.files):
            if file.role.role == "log-file":
                self.files[at] = replace(file, fd=fd)
                os.close(file.fd)
                return
        os.close(fd)

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    # What comes along the line

    def hello(self, message: Message, fds: list[int]) -> None:
        """Take the ring and the eventfd; raises ValueError where the hello is none."""
        status = Status.from_message(message["hello"])
        if len(fds) != 2:
            raise ValueError("A hello has two descriptors")
        if self.ring is None or not os.path.sameopenfile(self.ring.fd, fds[0]):
            self._take_ring(fds)
        if self._wake_fd < 0:
            self._watch_wakes(fds.pop())
        self.status_came(status)
        self._listener.greeted(self, dict(message.get("keep") or {}))
        self.pump()

    def status_came(self, status: Status) -> None:
        """A change of status."""
        self.status = status
        self._listener.status_changed(self)

    def line_lost(self) -> None:
        """The process lives on without a line; make a new one soon."""
        self._after("reconnect", RECONNECT, self._reconnect)

    def _reconnect(self) -> None:
        try:
            self.connect(self._path)
        except (OSError, ChdebugdError):
            if self._link is not None:
                self.line_lost()

    def process_gone(self) -> None:
        """The process is dead."""
        self._drop_link()
        self._cancel("reconnect")
        self._gone.set()
        self._listener.process_gone(self)

    def set_died(self, result: Result, sentence: str) -> None:
        """The process ended without saying so."""
        state = State.STOPPED if result in GOOD else State.FAILED
        self.status_came(self.status._replace(state=state, result=result, sentence=sentence))

    # The ring

    def attach(self, ring: Ring) -> None:
        """Read this ring from now on; it belongs to the VM."""
        before = self.counts
        self.release_ring()
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
                self.name,
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
        self._cancel("pump")
        ring = self.ring
        if ring is None or not self._listener.has_room(self):
            return
        position = self._handed
        held = self._pace.holds(asyncio.get_running_loop().time(), ring.head, position)
        if held and not self._is_draining:
            self._after("pump", LOOK, self.pump)
            return
        events, lost = ring.copy(position)
        if not events and not lost and not self.has_process and position < ring.head:
            lost = 1  # torn by the death of a vCPU, and nobody mends it
        if lost:
            ring.skip(lost)
            self._handed = position + lost
            ring.move(Reader.SIGNALS, self._handed)
        if events:
            self._handed = events[-1].ticket
            self._listener.events(self, events)
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
            self._listener.counts_changed(self)

    def _rest(self, ring: Ring, more: bool, busy: bool) -> None:
        """Look again soon where events came, so that a burst wakes us once; else sleep."""
        self._is_draining = more
        if more:
            self._after("pump", BURST_GAP if self._pace.is_burst else 0, self.pump)
        elif busy or not ring.sleep(Reader.SIGNALS, self._handed):
            self._after("pump", LINGER, self.pump)
        else:
            self._sleep(ring)

    def _sleep(self, ring: Ring) -> None:
        """Until the guest's next mark."""
        if ring.is_full:
            self._after("pump", FULL_CHECK, self.pump)
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

    def release_ring(self) -> None:
        """Let go of the ring; the counts stay."""
        self._last_counts = self.counts
        self._cancel("pump")
        wake_fd, self._wake_fd = self._wake_fd, -1
        if wake_fd >= 0:
            asyncio.get_running_loop().remove_reader(wake_fd)
            os.close(wake_fd)
        ring, self.ring = self.ring, None
        if ring is not None:
            ring.move(Reader.SIGNALS, self._handed)
            ring.close()

    def close(self) -> None:
        """Let go of everything; the process, if there is one, lives on."""
        self._drop_link()
        self._cancel("reconnect")
        self.release_ring()
        files, self.files = self.files, []
        for file in files:
            os.close(file.fd)

    def _after(self, name: str, seconds: float, callback: Any) -> None:
        self._cancel(name)
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, callback)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
