"""The sink of events that scripts written for cloud-hypervisor read: the log file."""

from __future__ import annotations

import errno
import os

from chdebugd.trace.event import TEXT_OF, Event, seconds
from chdebugd.trace.ring import BATCH, Reader, Ring
from chdebugd.trace.sink import Progress


class LogSink:
    """The log file: one line an event, appended, never truncated.

    What cannot be written is counted and left out, so that no full disk stops a guest.
    """

    def __init__(self, ring: Ring, fd: int = -1) -> None:
        """Without a descriptor there is no log file, and the position follows the head."""
        self.fd = fd
        self.limit = 0
        """Bytes that the file may have; 0 is no limit."""
        self.lost_lines = 0
        self.error: OSError | None = None
        self._ring = ring
        self._rest = b""

    def reopen(self, fd: int) -> None:
        """Go on in the file `fd`, which is the sink's from now on."""
        old, self.fd = self.fd, fd
        self._rest = b""
        if old >= 0:
            os.close(old)

    def drain(self) -> Progress:
        """Write one batch. `error` is set while the file does not take it."""
        position = self._ring.position(Reader.LOG)
        if self.fd < 0:
            return self._follow(position)
        events, _ = self._ring.copy(position)
        if events or self._rest:
            self._write(self._lines(events))
        if events:
            self._ring.move(Reader.LOG, events[-1].ticket)
        return _progress(events)

    def _follow(self, position: int) -> Progress:
        head = self._ring.head
        self._ring.move(Reader.LOG, head)
        return Progress.DRAINED if head > position else Progress.IDLE

    def resume(self, tail: bytes) -> None:
        """Step over what the file has already; `tail` is the end of it, a batch of lines or more.

        A process that died had no time to move its position behind what it wrote last. No two
        lines are the same, as a line has nanoseconds in it.
        """
        events, _ = self._ring.copy(self._ring.position(Reader.LOG))
        expected = self._lines(events)
        sizes = range(min(len(tail), len(expected)), 0, -1)
        size = next((n for n in sizes if tail.endswith(expected[:n])), 0)
        if size:
            torn = expected[size - 1 : size] != b"\n"
            self._rest = expected[size : expected.index(b"\n", size) + 1] if torn else b""
            written = expected[:size].count(b"\n") + torn
            self._ring.move(Reader.LOG, events[written - 1].ticket)

    def _lines(self, events: list[Event]) -> bytes:
        lead = self._ring.log_lead_nsec
        return "".join([self._line(event, lead) for event in events]).encode()

    def _line(self, event: Event, lead: int) -> str:
        since = (event.elapsed_nsec + lead) / 1e6
        return (
            f"chdebugd: {since:.6f}ms: DEBUG:vmm/debug_port -- "
            f"{TEXT_OF[event.code]} {seconds(event.elapsed_nsec)} seconds\n"
        )

    def _write(self, lines: bytes) -> None:
        """Write whole lines; of a line that fits in part the rest comes before the next one."""
        data = self._rest + lines
        done = 0
        self.error = None
        try:
            allowed = self._whole_lines_within_limit(data)
            while done < allowed:
                done += os.write(self.fd, data[done:allowed])
            if allowed < len(data):
                raise OSError(errno.EFBIG, f"it has reached the limit of {self.limit} bytes")
        except OSError as error:
            self.error = error
        left = data[done:]
        cut_short = done > 0 and data[done - 1 : done] != b"\n" and left
        first = left.split(b"\n", 1)[0] + b"\n" if cut_short or (self._rest and not done) else b""
        self.lost_lines += left.count(b"\n") - first.count(b"\n")
        self._rest = first

    def _whole_lines_within_limit(self, data: bytes) -> int:
        """How much of `data` the file may take; it may have been cut since the last time."""
        if not self.limit:
            return len(data)
        room = self.limit - os.fstat(self.fd).st_size
        return len(data) if len(data) <= room else data.rfind(b"\n", 0, max(room, 0)) + 1

    def close(self) -> None:
        """Close the file; twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _progress(events: list[Event]) -> Progress:
    if len(events) == BATCH:
        return Progress.MORE
    return Progress.DRAINED if events else Progress.IDLE
