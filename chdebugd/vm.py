"""One VM as the daemon sees it: the line to its process, its files, and its ring.

The VM's own process decides its state (vm_life.py); what is here mirrors it, and says when the
process is dead. Its marks go from the ring to the bus through its SignalPump.
"""

from __future__ import annotations

import asyncio
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
from chdebugd.signal_pump import SignalPump
from chdebugd.state import ENDED, State
from chdebugd.trace.event import Event
from chdebugd.trace.ring import Ring
from chdebugd.vm_link import ANSWER_TIMEOUT, GONE, SILENT, VmLink
from chdebugd.vmm.outcome import GOOD, Result

BOOTS_MAX = 0xFFFF_FFFF
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
        self.owes_end = False
        """Whether the journal may lack the entry of its end, because its process was killed."""
        self.status = Status()
        self.signals = SignalPump(name, self)
        self._listener = listener
        self._path = Path()
        self._link: VmLink | None = None
        self._gone = asyncio.Event()
        self._reconnect_timer: asyncio.TimerHandle | None = None

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
        """Boots since the VM was made, over all its processes; no more than fit on D-Bus."""
        return min(self.signals.boots_before + self.counts.boots, BOOTS_MAX)

    @property
    def ring(self) -> Ring | None:
        """Where its marks are; None where there never was a process, or one of another version."""
        return self.signals.ring

    @property
    def counts(self) -> Counts:
        """From the ring, or what it said last."""
        return self.signals.counts

    def restore(self, status: Status, counts: Counts) -> None:
        """What was known of it last; the ring, where there is one, knows the counts better."""
        self.status = status
        self.signals.restore(counts)

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

    def change_log(self, role: str, fd: int) -> None:
        """Its process writes this log or text file from now on; `fd` is the VM's."""
        for at, file in enumerate(self.files):
            if file.role.role == role:
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
        self.signals.take(fds)
        self.status_came(status)
        self._listener.greeted(self, dict(message.get("keep") or {}))
        self.signals.pump()

    def status_came(self, status: Status) -> None:
        """A change of status."""
        self.status = status
        self._listener.status_changed(self)

    def line_lost(self) -> None:
        """The process lives on without a line; make a new one soon."""
        self._cancel_reconnect()
        self._reconnect_timer = asyncio.get_running_loop().call_later(RECONNECT, self._reconnect)

    def _reconnect(self) -> None:
        try:
            self.connect(self._path)
        except (OSError, ChdebugdError):
            if self._link is not None:
                self.line_lost()

    def process_gone(self) -> None:
        """The process is dead."""
        self._drop_link()
        self._cancel_reconnect()
        self._gone.set()
        self._listener.process_gone(self)

    def set_died(self, result: Result, sentence: str) -> None:
        """The process ended without saying so."""
        state = State.STOPPED if result in GOOD else State.FAILED
        self.status_came(self.status._replace(state=state, result=result, sentence=sentence))

    # For the pump

    @property
    def has_room(self) -> bool:
        """Whether signals of it can be sent now."""
        return self._listener.has_room(self)

    def events(self, events: list[Event]) -> None:
        """Pass them on."""
        self._listener.events(self, events)

    def counts_changed(self) -> None:
        """Pass it on."""
        self._listener.counts_changed(self)

    def close(self) -> None:
        """Let go of everything; the process, if there is one, lives on."""
        self._drop_link()
        self._cancel_reconnect()
        self.signals.close()
        files, self.files = self.files, []
        for file in files:
            os.close(file.fd)

    def _cancel_reconnect(self) -> None:
        if self._reconnect_timer is not None:
            self._reconnect_timer.cancel()
