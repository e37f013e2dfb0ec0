"""A command on a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.dbus.conftest import TIMEOUT

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Its keyboard, and what it has shown so far without colours and the like."""

    def __init__(self, fd: int, pid: int) -> None:
        self.seen = ""
        self._raw = ""
        self._fd = fd
        self._pid = pid
        self._status: int | None = None

    @property
    def raw(self) -> str:
        """What it has shown, with colours."""
        return self._raw

    def say(self, text: str) -> None:
        """Type."""
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Until it has shown the text."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.seen:
            assert time.monotonic() < deadline, repr(self.seen)
            self._look()

    def _look(self) -> bool:
        """Take what it shows; False where it has ended."""
        if not select.select([self._fd], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._fd, 4096)
        except OSError:  # the command has ended
            return False
        self._raw += data.decode(errors="replace")
        self.seen = CONTROLS.sub("", self._raw).replace("\r\n", "\n")
        return True

    def wait(self) -> int:
        """The command's exit status, once it has ended."""
        deadline = time.monotonic() + TIMEOUT
        while self._look():
            assert time.monotonic() < deadline, repr(self.seen)
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status

    def close(self) -> None:
        """End the command, however it is."""
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)


@contextmanager
def on_terminal(command: list[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a command on a terminal; it is ended in any case."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, dict(environment))
    terminal = Terminal(fd, pid)
    try:
        yield terminal
    finally:
        terminal.close()
