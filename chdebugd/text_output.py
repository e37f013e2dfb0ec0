"""Where the text of a guest's port goes: the journal line by line, a file, a pty or a socket."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import tty
from collections.abc import Callable

from chdebugd.vm_loop import VmLoop

Output = Callable[[bytes], None]

INPUT_SIZE = 4096  # bytes taken at once
NO_LIMIT = 1 << 62  # bytes
LINE_LIMIT = 4096  # bytes; a longer line is cut in two
LINES_A_SECOND = 1000  # of one port in the journal: some 1 MB; a boot has a few hundred


class JournalText:
    """Whole lines to `post`; what a guest writes is text of unknown encoding.

    Of more than LINES_A_SECOND the rest is left out, and `suppressed` is told how many they were.
    """

    def __init__(self, post: Callable[[str], None], suppressed: Callable[[int], None]) -> None:
        self._post = post
        self._tell_suppressed = suppressed
        self._line = bytearray()
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def __call__(self, data: bytes) -> None:
        """Take some bytes, from any one thread at a time."""
        for byte in data:
            if byte == 0x0A or len(self._line) >= LINE_LIMIT:
                self.flush()
            if byte not in (0x0A, 0x0D):
                self._line.append(byte)

    def flush(self) -> None:
        """Post what has no line end yet."""
        if not self._line:
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
            self._end_suppression()
        self._lines += 1
        if self._lines <= LINES_A_SECOND:
            self._post(self._line.decode(errors="backslashreplace"))
        else:
            self._suppressed += 1
        self._line.clear()

    def _end_suppression(self) -> None:
        count, self._suppressed = self._suppressed, 0
        if count:
            self._tell_suppressed(count)

    def close(self) -> None:
        """Post half a line, and tell what was left out last."""
        self.flush()
        self._end_suppression()


class FileText:
    """Raw bytes to a descriptor; what it does not take is counted."""

    def __init__(self, fd: int, limit: int = 0, full: Callable[[], None] = lambda: None) -> None:
        """A file may have `limit` bytes, 0 is no limit; `full` is told when it first has them."""
        self.fd = fd
        self.lost_bytes = 0
        self._limit = limit
        self._full = full
        self._room = 0 if limit else NO_LIMIT

    def __call__(self, data: bytes) -> None:
        """Write; a full disk or a terminal that nobody reads stops no guest."""
        written = 0
        with contextlib.suppress(OSError):
            if len(data) > self._room:
                self._look_for_room()
            if self._room > 0:
                written = os.write(self.fd, data[: self._room])
                self._room -= written
        self.lost_bytes += len(data) - written

    def reopen(self, fd: int) -> None:
        """Go on in the file `fd`, which stays the caller's; a vCPU thread may write meanwhile."""
        os.dup2(fd, self.fd, inheritable=False)
        if self._limit:
            self._room = 0  # it looks

    def _look_for_room(self) -> None:
        """The file may have been cut. Not fstat(2): a vCPU thread may seek and little else."""
        had_room = not self.lost_bytes
        self._room = self._limit - os.lseek(self.fd, 0, os.SEEK_END)
        if had_room and self._room <= 0:
            self._full()

    def close(self) -> None:
        """Close the descriptor; twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class PtyText(FileText):
    """A pseudo-terminal of our own; `path` is the end for people."""

    def __init__(self, loop: VmLoop, typed: Output | None) -> None:
        """`typed` gets what is typed at the other end, where the port takes input."""
        master, slave = os.openpty()
        self._slave = slave  # kept open: without it the master reports a hang-up
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.path = os.ttyname(slave)
        self._loop = loop
        super().__init__(master)
        if typed:
            loop.add_reader(master, lambda: typed(self._read()))

    def _read(self) -> bytes:
        with contextlib.suppress(OSError):
            return os.read(self.fd, INPUT_SIZE)
        return b""

    def close(self) -> None:
        """Close both ends; twice is fine."""
        slave, self._slave = self._slave, -1
        if slave >= 0:
            self._loop.remove(self.fd)
            os.close(slave)
        super().close()


class SocketText:
    """A socket at `path`: the text goes to whoever connected last, and to nobody before that."""

    def __init__(self, path: str, loop: VmLoop, typed: Output | None) -> None:
        """`typed` gets what the other end sends, where the port takes input."""
        self.path = path
        self.lost_bytes = 0
        self._loop = loop
        self._typed = typed
        self._client: socket.socket | None = None
        self._unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        os.chmod(path, 0o600)
        self._listener.listen(1)
        loop.add_reader(self._listener, self._accept)

    def __call__(self, data: bytes) -> None:
        """Send, from any one thread at a time; a client that does not read stops no guest."""
        client = self._client
        if client is None:
            return
        try:
            # Not send(2): a vCPU thread may write and little else.
            self.lost_bytes += len(data) - os.write(client.fileno(), data)
        except OSError:
            self.lost_bytes += len(data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setblocking(False)
        self._hang_up()
        self._client = client
        self._loop.add_reader(client, self._receive)

    def _receive(self) -> None:
        data = b""
        if self._client:
            with contextlib.suppress(ConnectionError):
                data = self._client.recv(INPUT_SIZE)
        if not data:
            self._hang_up()
        elif self._typed:
            self._typed(data)

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client:
            self._loop.remove(client)
            client.close()

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        """Hang up and remove the socket; twice is fine."""
        self._hang_up()
        self._loop.remove(self._listener)
        self._listener.close()
        self._unlink()
