"""The daemon's line to one VM process: requests, answers, and the certainty of its death.

A connection can break or stall while the process lives. Only the pidfd says that it is dead, and
with it that nobody puts events into its ring any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any, Protocol

from chdebugd.control import Channel, Message, Status, close_all, error_message, error_of
from chdebugd.errors import ChdebugdError, NotRespondingError, StartFailedError

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 5.0  # seconds for what a VM process does at once
BURST = 32  # messages that one turn of the loop takes
GONE = "The process of VM '{0}' is gone; see journalctl -t chdebugd VM={0}"
BROKEN = "The process of VM '{}' broke off the talk; see the VM's State, and call again"
SILENT = (
    "The process of VM '{}' does not answer; it may be stopped or the host overloaded: "
    "wait, or kill it"
)


class Receiver(Protocol):
    """Who is told what comes along the line."""

    def hello(self, message: Message, fds: list[int]) -> None:
        """The process is there; takes the descriptors it needs out of `fds`."""

    def status_came(self, status: Status) -> None:
        """A change of status."""

    def line_lost(self) -> None:
        """The process lives, and this connection is of no more use."""

    def process_gone(self) -> None:
        """The process is dead, and all that it said has been told."""


class VmLink:
    """One connection, and a hold on the process behind it."""

    def __init__(self, name: str, path: Path, receiver: Receiver) -> None:
        """Connect to the process that listens at `path`.

        Raises NotRespondingError where it lets nobody in, OSError where there is no process.
        """
        self.greeted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done at the hello, with False where the connection broke before."""
        self._name = name
        self._receiver = receiver
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._last_id = 0
        self._channel: Channel | None = _connect(path, SILENT.format(name))
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(self._channel.peer()[0])
        except OSError:
            self._channel.close()
            raise
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._receive)
        loop.add_reader(self._pidfd, self._died)

    async def call(self, op: str, fds: list[int], *, within: float | None, **fields: Any) -> None:
        """One request, answered `within` so many seconds; None waits for ever.

        Raises the error that the process answers, StartFailedError where it is dead, and
        NotRespondingError where it lives and does not answer.
        """
        if self._channel is None:
            raise self._no_answer()
        self._last_id += 1
        request_id = self._last_id
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        try:
            self._channel.send({"id": request_id, "op": op} | fields, fds)
            async with asyncio.timeout(within):
                refusal = error_of(await answer)
        except (OSError, TimeoutError):
            raise NotRespondingError(SILENT.format(self._name)) from None
        finally:
            self._answers.pop(request_id, None)
        if refusal is not None:
            raise refusal

    def _receive(self) -> None:
        for _ in range(BURST):
            if self._channel is None or not self._take_one():
                return

    def _take_one(self) -> bool:
        """Take one message; False where there is none now."""
        assert self._channel is not None
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return False
        if received is None:
            self._break_off()
            return False
        message, fds = received
        try:
            self._take(message, fds)
        except OSError as error:
            log.warning("VM '%s' must be connected to once more: %s", self._name, error)
            self._break_off()
            return False
        except (ValueError, TypeError, KeyError) as error:
            log.error("VM '%s' is killed: its process broke the protocol: %s", self._name, error)
            self.kill()
        finally:
            close_all(fds)
        return True

    def _break_off(self) -> None:
        self._hang_up()
        if not self.is_dead:
            self._receiver.line_lost()

    def _take(self, message: Message, fds: list[int]) -> None:
        if "hello" in message:
            if self.greeted.done():
                raise ValueError("It says hello twice")
            self._receiver.hello(message, fds)
            self.greeted.set_result(True)
        elif "status" in message:
            self._receiver.status_came(Status.from_message(message["status"]))
        elif (answer := self._answers.get(message["id"])) and not answer.done():
            answer.set_result(message)

    # The process

    @property
    def is_dead(self) -> bool:
        """Whether the process is dead, with all its threads."""
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """SIGKILL to this process and no other, whoever has its number by then."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _died(self) -> None:
        """Take what it said last, then tell."""
        while self._channel is not None and self._take_one():
            continue
        self.close()
        self._receiver.process_gone()

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            asyncio.get_running_loop().remove_reader(channel)
            channel.close()
        if not self.greeted.done():
            self.greeted.set_result(False)

    def _no_answer(self) -> ChdebugdError:
        if self.is_dead:
            return StartFailedError(GONE.format(self._name))
        return NotRespondingError(BROKEN.format(self._name))

    def close(self) -> None:
        """Let go; the process lives on. Twice is fine."""
        self._hang_up()
        for answer in self._answers.values():  # only now: one that dies hangs up first
            if not answer.done():
                answer.set_result(error_message(self._no_answer()))
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)


def _connect(path: Path, silent: str) -> Channel:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.connect(str(path))
    except BlockingIOError:
        sock.close()
        raise NotRespondingError(silent) from None
    except OSError:
        sock.close()
        raise
    return Channel(sock)
