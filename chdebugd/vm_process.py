"""The process of one VM behind its socket. It owns /dev/kvm descriptors and no D-Bus.

One daemon at a time talks to it; a new connection takes the old one's place, because daemons are
restarted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket

from chdebugd.control import (
    LAST_WORDS,
    Channel,
    Message,
    StartRequest,
    Status,
    close_all,
    error_message,
)
from chdebugd.counts import Counts
from chdebugd.errors import ChdebugdError, InvalidOptionError
from chdebugd.exit_cost import exit_cost_of_host
from chdebugd.state import ENDED, State
from chdebugd.trace.ring import Ring
from chdebugd.vm_life import VmLife
from chdebugd.vm_loop import VmLoop
from chdebugd.vmm.outcome import Result

POWER_OFF = signal.SIGRTMIN + 4  # what `machinectl poweroff` sends (machinectl(1))
TERM_TIMEOUT_USEC = 10_000_000  # what a guest has after SIGTERM to obey its power button
ACCEPT_AGAIN = 0.5  # seconds until a daemon that could not be let in is tried again
UNWANTED_AFTER = 60.0  # seconds without a start request: the daemon that wanted us is dead


class VmProcess:
    """The socket, the signals and the one VM behind them."""

    def __init__(self, name: str, directory: str) -> None:
        self.loop = VmLoop()
        self._last_words = f"{directory}/{LAST_WORDS}"
        self._channel: Channel | None = None
        exit_cost = exit_cost_of_host(directory)
        self._life = VmLife(
            name,
            self.loop,
            Ring.create(),
            self._report,
            self._gone,
            exit_cost,
            directory=directory,
        )
        self._life.sinks.on_wake = self._life.woken
        self._watch_signals()
        self.loop.call_later("unwanted", UNWANTED_AFTER, lambda: self._life.kill(lambda _: None))

    def serve(self, listener: socket.socket) -> None:
        """Let in the daemons that call at `listener`; once, before the loop runs."""
        self._listener = listener
        self._await_daemon()

    def _await_daemon(self) -> None:
        self.loop.add_reader(self._listener, self._accept)

    def _watch_signals(self) -> None:
        """Python's own handler writes the number of a signal into a socket the loop reads."""
        self._signal_in, self._signal_out = socket.socketpair()
        self._signal_in.setblocking(False)
        self._signal_out.setblocking(False)
        signal.set_wakeup_fd(self._signal_out.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, POWER_OFF):
            signal.signal(number, lambda *_: None)
        self.loop.add_reader(self._signal_in, self._signalled)

    def _signalled(self) -> None:
        self._signal_in.recv(64)
        if self._life.status.state not in ENDED:
            self._life.stop(TERM_TIMEOUT_USEC, lambda _: None)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # we, or the host, may open no more files: whoever it is, waits
            self.loop.remove(self._listener)
            self.loop.call_later("accept", ACCEPT_AGAIN, self._await_daemon)
            return
        channel = Channel(connection)
        _, uid = channel.peer()
        if uid not in (0, os.getuid()):
            channel.close()
            return
        self._hang_up()
        self._channel = channel
        self.loop.add_reader(channel, self._receive)
        hello = {
            "hello": self._life.status.to_message(),
            "pid": os.getpid(),
            "keep": self._life.keep,
        }
        self._send(hello, [self._life.ring.fd, self._life.signals_eventfd])

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel:
            self.loop.remove(channel)
            channel.close()

    def _send(self, message: Message, fds: list[int] | None = None) -> None:
        """A daemon that is gone or does not read finds out when it connects again."""
        if self._channel:
            try:
                self._channel.send(message, fds)
            except OSError:
                self._hang_up()

    def _report(self, status: Status) -> None:
        self._send({"status": status.to_message()})

    def _receive(self) -> None:
        assert self._channel is not None
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return
        if received is None:
            self._hang_up()
            return
        message, fds = received
        request_id = message.pop("id", 0)
        try:
            self._request(request_id, str(message.pop("op", "")), message, fds)
        except ChdebugdError as error:
            self._answer(request_id, error)

    def _request(self, request_id: int, op: str, message: Message, fds: list[int]) -> None:
        def done(error: ChdebugdError | None) -> None:
            self._answer(request_id, error)

        match op:
            case "start":
                self.loop.cancel("unwanted")
                self._life.start(StartRequest.from_message(message), fds, done)
            case "stop":
                self._life.stop(int(message["timeout_usec"]), done)
            case "kill":
                self._life.kill(done)
            case "reopen-log":
                self._life.sinks.log.reopen(*fds)
                done(None)
            case "reopen-text":
                self._life.reopen_text(str(message["port"]), *fds)
                done(None)
            case "pause" | "resume" | "reset":
                getattr(self._life, op)()
                done(None)
            case _:
                close_all(fds)
                raise InvalidOptionError(f"This VM process does not know '{op}'; restart the VM")

    def _answer(self, request_id: int, error: ChdebugdError | None) -> None:
        self._send({"id": request_id} | (error_message(error) if error else {}))

    def _gone(self) -> None:
        """Say it to the next daemon too, should this one be gone."""
        words = {
            "status": self._life.status.to_message(),
            "counts": Counts.at_the_end(self._life.ring)._asdict(),
        }
        with contextlib.suppress(OSError), open(self._last_words, "w") as file:
            json.dump(words, file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._listener.getsockname())
        self._hang_up()
        self.loop.stop()

    @property
    def exit_status(self) -> int:
        """1 where the VM failed after it had started; before that, the caller was told why."""
        status = self._life.status
        return int(status.state == State.FAILED and status.result != Result.START_FAILED)
