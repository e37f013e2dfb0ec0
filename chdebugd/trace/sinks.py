"""The two sinks that last: each drains the ring from its own position.

A sink moves its position only behind what it has handed over, one event at a time for the
journal: should the process die, whoever drains the ring after it goes on from there.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from chdebugd.trace.event import COMPONENT_OF, TEXT_OF, Event, seconds
from chdebugd.trace.journal import DEBUG, WARNING, Journal, MessageId, entry, field
from chdebugd.trace.ring import BATCH, EntryTexts, Reader, Ring

if TYPE_CHECKING:
    from chdebugd.trace.codemap import CodeMap

ENTRIES_BATCH = 128  # events that one drain sends to journald: some 10 ms while it is busy
ENTRIES_LIMIT = 8192  # entries other than events that wait for journald


class Progress(Enum):
    """How far a drain came."""

    IDLE = auto()
    """There was nothing."""
    DRAINED = auto()
    """All there was is handed over."""
    MORE = auto()
    """A whole batch is handed over, more may wait."""
    BLOCKED = auto()
    """The other side takes no more now."""


def _progress(events: list[Event]) -> Progress:
    if len(events) == BATCH:
        return Progress.MORE
    return Progress.DRAINED if events else Progress.IDLE


class JournalSink:
    """Events and other entries of one VM, in the order they happened.

    `post` may be called from any thread, the rest from one.
    """

    def __init__(self, ring: Ring, journal: Journal, vm: str, codes: CodeMap | None) -> None:
        self.journal = journal
        self.level = DEBUG
        self.lost_entries = 0
        self._ring = ring
        self._vm = vm
        self._codes = codes
        self._texts = EntryTexts(boot=0)
        self._entries: deque[tuple[int, bytes]] = deque()
        self._lock = threading.Lock()

    def post(self, kind: MessageId, message: str, priority: int, **fields: str) -> None:
        """Queue an entry behind all events so far.

        Where too many wait it is thrown away, and an entry says how many were, once there is room.
        """
        if priority > self.level:
            return
        with self._lock:
            if len(self._entries) >= ENTRIES_LIMIT:
                self.lost_entries += 1
                return
            lost, self.lost_entries = self.lost_entries, 0
            if lost:
                text = f"{lost} entries were thrown away while journald took none"
                self._queue(MessageId.ENTRIES_LOST, text, WARNING, {"LOST": str(lost)})
            self._queue(kind, message, priority, fields)

    def _queue(self, kind: MessageId, message: str, priority: int, fields: dict[str, str]) -> None:
        about = {
            "MESSAGE_ID": kind.value,
            "VM": self._vm,
            "VM_BOOT": self._ring.boot_id(self._ring.boot),
        }
        self._entries.append((self._ring.head, entry(message, priority, about | fields)))

    @property
    def is_empty(self) -> bool:
        """Whether all events and entries are sent."""
        return not self._entries and self._ring.position(Reader.JOURNAL) == self._ring.head

    def drain(self) -> Progress:
        """Send one batch."""
        done = 0
        while True:
            position = self._ring.position(Reader.JOURNAL)
            if not self._send_entries(position):
                return Progress.BLOCKED
            limit = ENTRIES_BATCH - done
            if self._entries:
                limit = min(limit, self._entries[0][0] - position)
            if limit <= 0:
                return Progress.MORE
            sent = self._send_events(position, limit)
            if sent is None:
                return Progress.BLOCKED
            if not sent:
                return Progress.DRAINED if done else Progress.IDLE
            done += sent

    def _send_events(self, position: int, limit: int) -> int | None:
        """How many events were sent or are not wanted; None where journald takes no more now."""
        if self.level < DEBUG or not self.journal.exists:
            events, _ = self._ring.copy(position, limit)
            if events:
                self._ring.move(Reader.JOURNAL, events[-1].ticket)
            return len(events)
        if not self.journal.connect():
            return None
        sent, problem = self._ring.send_entries(self.journal.fileno(), self._texts, limit)
        match problem:
            case 0:
                return sent
            case errno.ENODATA:
                self._add_text()
                return sent or self._send_events(position, limit)
            case errno.EOVERFLOW:
                raise AssertionError("The ring overwrote what the journal had not read")
            case errno.EAGAIN:
                return None
        self.journal.disconnect()
        return None

    def _send_entries(self, position: int) -> bool:
        """Send the entries that belong before the event at `position`."""
        while self._entries and self._entries[0][0] <= position:
            if not self.journal.send(self._entries[0][1]):
                return False
            with self._lock:
                self._entries.popleft()
        return True

    def _add_text(self) -> None:
        """The next event is the first of its code in its boot."""
        [event], _ = self._ring.copy(self._ring.position(Reader.JOURNAL), 1)
        if event.boot != self._texts.boot:
            self._texts = EntryTexts(event.boot)
        boot_id = self._ring.boot_id(event.boot)
        around = _around_figures(self._vm, boot_id, event.code, self._codes)
        self._texts.set(event.code, *around)


def _around_figures(vm: str, boot_id: str, code: int, codes: CodeMap | None) -> tuple[bytes, bytes]:
    """The fields before the figures of an event, MESSAGE last and cut short; and behind."""
    tail = b""
    if codes:
        named = {"CODE_NAME": codes.name(code), "CODE_STAGE": codes.stage(code)}
        tail = b"".join(field(name, value) for name, value in named.items() if value)
    fields = {
        "MESSAGE_ID": MessageId.EVENT.value,
        "VM": vm,
        "VM_BOOT": boot_id,
        "COMPONENT": COMPONENT_OF[code],
        "CODE": f"{code:#x}",
    }
    head = entry("", DEBUG, fields).replace(b"MESSAGE=\n", b"", 1)
    return head + f"MESSAGE={TEXT_OF[code]} ".encode(), tail


def entry_again(event: Event, vm: str, boot_id: str, codes: CodeMap | None) -> bytes:
    """The entry of an event that the journal has lost; RESENT sets it apart."""
    head, tail = _around_figures(vm, boot_id, event.code, codes)
    elapsed = seconds(event.elapsed_nsec)
    figures = {
        "ELAPSED": elapsed,
        "ELAPSED_NSEC": str(event.elapsed_nsec),
        "SEQ": str(event.seq),
        "VCPU": str(event.vcpu),
        "RESENT": "1",
    }
    fields = b"".join(field(name, value) for name, value in figures.items())
    return head + f"{elapsed} seconds\n".encode() + fields + tail


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
