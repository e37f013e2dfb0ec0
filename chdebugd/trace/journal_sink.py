"""The sink of events and of all other entries of a VM: journald."""

from __future__ import annotations

import errno
import threading
from collections import deque
from typing import TYPE_CHECKING

from chdebugd.trace.event import COMPONENT_OF, TEXT_OF, Event, seconds
from chdebugd.trace.journal import DEBUG, WARNING, Journal, MessageId, entry, field
from chdebugd.trace.ring import EntryTexts, Reader, Ring
from chdebugd.trace.sink import Progress

if TYPE_CHECKING:
    from chdebugd.trace.codemap import CodeMap

ENTRIES_BATCH = 128  # events that one drain sends to journald: some 10 ms while it is busy
ENTRIES_LIMIT = 8192  # entries other than events that wait for journald


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
