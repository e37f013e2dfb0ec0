"""One VM as the daemon sees it: its process at the other end of a channel, and its ring.

The VM's own process decides its state (vm_life.py); what is here mirrors it, feeds the signals,
and takes care of what is left in the ring when that process dies.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chdebugd.control import Channel, Message, StartRequest, Status, close_all, error_of
from chdebugd.errors import ChdebugdError, StartFailedError, WrongStateError
from chdebugd.options import VmOptions
from chdebugd.state import ENDED, State
from chdebugd.trace.event import Event
from chdebugd.trace.ring import BATCH, Reader, Ring
from chdebugd.vmm.outcome import Result

LINGER = 0.0005  # seconds that the pump looks again before it sleeps
GONE = "The process of VM '{}' is gone; see journalctl -t chdebugd VM={}"


@dataclass(frozen=True)
class Counts:
    """What the ring counts over all boots of one VM process, as D-Bus shows it."""

    boot_id: str = ""
    start_nsec: int = 0
    events: int = 0
    dropped: int = 0
    skipped: int = 0
    stalled_nsec: int = 0
    last_code: int = 0


class Listener(Protocol):
    """Who is told what happens to a VM."""

    def events(self, vm: VM, events: list[Event]) -> None:
        """Events to signal, in order."""

    def status_changed(self, vm: VM, old: Status) -> None:
        """State, result or terminals changed."""

    def counts_changed(self, vm: VM) -> None:
        """Events came, or were skipped."""

    def process_gone(self, vm: VM) -> None:
        """The VM process has ended, well or not."""

    def has_room(self) -> bool:
        """Whether the bus takes more signals now; pump again when it does."""


class VM:
    """A VM by name. Not connected to a process before `connect` and after its end."""

    def __init__(self, name: str, options: VmOptions, listener: Listener, owner: int) -> None:
        """`owner` is the user who started it."""
        self.name = name
        self.options = options
        self.owner = owner
        self.requested_nsec = 0
        self.status = Status()
        self.ring: Ring | None = None
        self.boots_before = 0
        self.pid = 0
        self._listener = listener
        self._channel: Channel | None = None
        self._wake_fd = -1
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._last_id = 0
        self._hello: asyncio.Future[Message] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._last_counts = Counts()

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return State(self.status.state)

    @property
    def boot_count(self) -> int:
        """Boots since the VM was made, over all its processes."""
        return self.boots_before + (self.ring.boot if self.ring else 0)

    @property
    def counts(self) -> Counts:
        """From the ring, or what it said last."""
        ring = self.ring
        if ring is None:
            return self._last_counts
        return Counts(
            ring.boot_id(ring.boot) if ring.boot else "",
            ring.start_nsec,
            ring.head,
            ring.dropped,
            ring.skip(),
            ring.stalled_nsec,
            ring.last_code,
        )

    def restore_counts(self, counts: dict[str, Any]) -> None:
        """What another daemon read last from a ring that is gone."""
        self._last_counts = Counts(**counts)

    # The process

    async def connect(self, path: Path) -> Message:
        """Connect to the process that listens at `path`; returns its hello.

        Raises OSError, or StartFailedError where it does not say hello.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        self._hang_up()
        self._channel = Channel(sock)
        self._hello = loop.create_future()
        loop.add_reader(sock, self._receive)
        return await self._hello

    async def start(self, request: StartRequest, fds: list[int]) -> None:
        """Boot; returns once vCPU 0 enters the guest. Raises what the VM process answers."""
        await self.call("start", fds, **request.to_message())

    async def call(self, op: str, fds: list[int] | None = None, **fields: Any) -> None:
        """One request to the VM process; raises the error it answers, or WrongStateError."""
        if self._channel is None:
            raise WrongStateError(f"VM '{self.name}' is {self.state}; start it first")
        self._last_id += 1
        answer = self._answers[self._last_id] = asyncio.get_running_loop().create_future()
        try:
            self._channel.send({"id": self._last_id, "op": op} | fields, fds)
        except OSError as error:
            del self._answers[self._last_id]
            raise StartFailedError(f"VM '{self.name}' does not listen: {error}; kill it") from None
        refusal = error_of(await answer)
        if refusal is not None:
            raise refusal

    def _receive(self) -> None:
        assert self._channel is not None
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return
        if received is None:
            self._hang_up()
            self._listener.process_gone(self)
            return
        message, fds = received
        try:
            self._take(message, fds)
        finally:
            close_all(fds)

    def _take(self, message: Message, fds: list[int]) -> None:
        if "hello" in message and self._hello is not None and not self._hello.done():
            self._attach(fds)
            self.pid = int(message["pid"])
            self._set_status(Status(**message["hello"]))
            self._hello.set_result(message)
        elif "status" in message:
            self._set_status(Status(**message["status"]))
        elif answer := self._answers.pop(message.get("id", 0), None):
            if not answer.done():
                answer.set_result(message)

    def _attach(self, fds: list[int]) -> None:
        """Take the ring and the eventfd out of `fds`."""
        if len(fds) < 2:
            raise ValueError("A hello without its descriptors")
        self.release_ring()
        ring_fd, self._wake_fd = fds.pop(0), fds.pop(0)
        self.ring = Ring(ring_fd)
        asyncio.get_running_loop().add_reader(self._wake_fd, self._woken)
        self.pump()

    def _set_status(self, status: Status) -> None:
        old, self.status = self.status, status
        self._listener.status_changed(self, old)

    def set_ended(self, result: Result, sentence: str) -> None:
        """The process ended without saying so."""
        self._set_status(self.status._replace(state=State.FAILED, result=result, sentence=sentence))

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            asyncio.get_running_loop().remove_reader(channel.fileno())
            channel.close()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_result({"error": "Failed", "message": GONE.format(self.name, self.name)})
        if self._hello is not None and not self._hello.done():
            gone: ChdebugdError = StartFailedError(GONE.format(self.name, self.name))
            self._hello.set_exception(gone)

    # The ring

    def _woken(self) -> None:
        os.eventfd_read(self._wake_fd)
        self.pump()

    def pump(self) -> None:
        """Hand events on while the bus has room; then sleep until the next one."""
        self._linger = None
        if self.ring is None:
            return
        while self._listener.has_room():
            position = self.ring.position(Reader.SIGNALS)
            events, lost = self.ring.copy(position)
            if lost:
                self.ring.skip(lost)
                self.ring.move(Reader.SIGNALS, position + lost)
            if events:
                self._listener.events(self, events)
                self.ring.move(Reader.SIGNALS, events[-1].ticket)
            if lost or events:
                self._listener.counts_changed(self)
            if len(events) < BATCH:
                self._rest(bool(events))
                return

    def _rest(self, busy: bool) -> None:
        """Look again soon where events came, so that a burst wakes us once; else sleep."""
        assert self.ring is not None
        loop = asyncio.get_running_loop()
        if busy or not self.ring.sleep(Reader.SIGNALS):
            self._linger = loop.call_later(LINGER, self.pump)

    def events_after(self, seq: int, limit: int) -> list[Event]:
        """Events of this boot with a number above `seq`, as far back as the ring reaches."""
        if self.ring is None:
            return []
        events: list[Event] = []
        position = self.ring.first_ticket + seq
        while len(events) < limit:
            batch, _ = self.ring.copy(position, limit - len(events))
            if not batch:
                break
            events += [event for event in batch if event.boot == self.ring.boot]
            position = batch[-1].ticket
        return events

    def release_ring(self) -> None:
        """Let go of the ring; the counts stay."""
        self._last_counts = self.counts
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        wake_fd, self._wake_fd = self._wake_fd, -1
        if wake_fd >= 0:
            asyncio.get_running_loop().remove_reader(wake_fd)
            os.close(wake_fd)
        ring, self.ring = self.ring, None
        if ring is not None:
            self.boots_before += ring.boot
            ring.close()

    def close(self) -> None:
        """Let go of everything; the process, if there is one, lives on."""
        self._hang_up()
        self.release_ring()

    @property
    def has_ended(self) -> bool:
        """Whether it is stopped or failed."""
        return self.state in ENDED
