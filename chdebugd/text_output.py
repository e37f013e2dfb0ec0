"""Where the text of a guest's port goes: the journal line by line, a file, or a pty."""

from __future__ import annotations

import contextlib
import os
import tty
from collections.abc import Callable

LINE_LIMIT = 4096  # bytes; a longer line is cut in two


class JournalText:
    """Whole lines to `post`; what a guest writes is text of unknown encoding."""

    def __init__(self, post: Callable[[str], None]) -> None:
        self._post = post
        self._line = bytearray()

    def __call__(self, data: bytes) -> None:
        """Take some bytes, from any one thread at a time."""
        for byte in data:
            if byte == 0x0A or len(self._line) >= LINE_LIMIT:
                self.flush()
            if byte not in (0x0A, 0x0D):
                self._line.append(byte)

    def flush(self) -> None:
        """Post what has no line end yet."""
        if self._line:
            self._post(self._line.decode(errors="backslashreplace"))
            self._line.clear()


class FileText:
    """Raw bytes to a descriptor; what it does not take is counted."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.lost_bytes = 0

    def __call__(self, data: bytes) -> None:
        """Write; a full disk or a terminal that nobody reads stops no guest."""
        try:
            self.lost_bytes += len(data) - os.write(self.fd, data)
        except OSError:
            self.lost_bytes += len(data)

    def close(self) -> None:
        """Close the descriptor; twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class PtyText(FileText):
    """A pseudo-terminal of our own; `path` is the end for people."""

    def __init__(self) -> None:
        master, slave = os.openpty()
        self._slave = slave  # kept open: without it the master reports a hang-up
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.path = os.ttyname(slave)
        super().__init__(master)

    def read(self) -> bytes:
        """What was typed at the other end."""
        with contextlib.suppress(OSError):
            return os.read(self.fd, 4096)
        return b""

    def close(self) -> None:
        """Close both ends; twice is fine."""
        slave, self._slave = self._slave, -1
        if slave >= 0:
            os.close(slave)
        super().close()
