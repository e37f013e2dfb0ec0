"""Keeps the two lasting sinks of a VM process going: when to drain, wait, try again, or sleep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from chdebugd.trace.journal import WARNING, Journal, MessageId
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.log_sink import LogSink
from chdebugd.trace.pace import LOOK, Pace
from chdebugd.trace.ring import Reader, Ring
from chdebugd.trace.sink import Progress
from chdebugd.vm_loop import VmLoop

LINGER = 0.001  # seconds until a sink looks again before it sleeps: a burst then costs no wake-ups
HELD_LOOK = 0.05  # seconds between two looks at an empty ring that is held, and full so
RETRY = 0.1  # seconds until journald is tried again when it has no socket
NOTICE_EVERY = 1.0  # seconds between two entries about drops


class VmSinks:
    """Drains on the loop's thread; `has_read` is called when the ring may have room again."""

    def __init__(self, loop: VmLoop, ring: Ring, has_read: Callable[[], None]) -> None:
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.journal: JournalSink | None = None
        self.log = LogSink(ring)
        self._loop = loop
        self.ring = ring
        self.on_wake: Callable[[], None] = lambda: None
        self._has_read = has_read
        self._log_failed = False
        self._told_dropped = 0
        self._told_at = 0.0
        self._waits_for_journal = False
        self._pace = Pace()
        loop.add_reader(self.eventfd, self._woken)

    def open_journal(self, journal: Journal, sink: JournalSink) -> None:
        """Begin to write entries; before that events wait in the ring."""
        self.journal = sink
        self._journal = journal

    def _woken(self) -> None:
        os.eventfd_read(self.eventfd)
        self.on_wake()
        self._look()

    def wake(self) -> None:
        """From any thread: there is an entry to send."""
        os.eventfd_write(self.eventfd, 1)

    def _look(self) -> None:
        """Let a burst pass, and drain behind it."""
        behind = self.ring.position(Reader.LOG)
        if self.journal is not None and not self._waits_for_journal:
            behind = min(behind, self.ring.position(Reader.JOURNAL))
        if self._pace.holds(time.monotonic(), self.ring.head, behind):
            self.ring.populate()
            self._loop.call_later("drain", LOOK, self._look)
        else:
            self.drain()

    def drain(self) -> None:
        """One batch of each sink; then come back as it needs."""
        both = {self._drain_log(), self._drain_journal()}
        self._tell_drops()
        if self.ring.is_roomy:
            self._has_read()
        if Progress.MORE in both:
            self._loop.call_later("drain", 0, self.drain)
        elif Progress.DRAINED in both:
            self._loop.call_later("drain", LINGER, self._look)
        elif not self._sleep(journal=Progress.BLOCKED not in both):
            self._loop.call_later("drain", 0, self.drain)
        elif not self.ring.is_roomy and not self._waits_for_journal:
            self._loop.call_later("drain", HELD_LOOK, self.drain)

    def _sleep(self, *, journal: bool) -> bool:
        """Ask to be woken by the next event; False where one is there already."""
        asleep = self.ring.sleep(Reader.LOG)
        return asleep and (not journal or self.ring.sleep(Reader.JOURNAL))

    def _drain_journal(self) -> Progress:
        if self.journal is None or self._waits_for_journal:
            return Progress.BLOCKED
        progress = self.journal.drain()
        if progress == Progress.BLOCKED:
            self._waits_for_journal = True
            if self._journal.is_connected:
                self._loop.add_writer(self._journal, self._journal_ready)
            else:
                self._loop.call_later("journal", RETRY, self._journal_ready)
        return progress

    def _journal_ready(self) -> None:
        self._loop.remove(self._journal)
        self._waits_for_journal = False
        self.drain()

    def _drain_log(self) -> Progress:
        progress = self.log.drain()
        error = self.log.error
        if error and not self._log_failed and self.journal:
            self.journal.post(
                MessageId.LOG_FILE_ERROR,
                f"The log file takes no lines: {error.strerror}; lines are counted until it does",
                WARNING,
                ERRNO=str(error.errno),
                LOST_LINES=str(self.log.lost_lines),
            )
        elif self._log_failed and not error and self.journal:
            self.journal.post(
                MessageId.LOG_FILE_ERROR,
                f"The log file takes lines again; {self.log.lost_lines} are missing",
                WARNING,
                LOST_LINES=str(self.log.lost_lines),
            )
        self._log_failed = error is not None
        return progress

    def _tell_drops(self, *, final: bool = False) -> None:
        dropped = self.ring.dropped
        if dropped == self._told_dropped or self.journal is None:
            return
        now = time.monotonic()
        if final or now - self._told_at >= NOTICE_EVERY:
            new, self._told_dropped, self._told_at = dropped - self._told_dropped, dropped, now
            self.journal.post(
                MessageId.VM_DROPPED,
                f"{new} events found the ring full and were dropped",
                WARNING,
                DROPPED=str(new),
            )

    def finish(self, done: Callable[[], None]) -> None:
        """Drain all there is, then call `done`; nobody may put events any more."""
        self._tell_drops(final=True)
        self._finish_step(done)

    def _finish_step(self, done: Callable[[], None]) -> None:
        self.drain()
        empty = self.ring.position(Reader.LOG) == self.ring.head
        if empty and (self.journal is None or self.journal.is_empty):
            done()
        else:
            self._loop.call_later("finish", LINGER, lambda: self._finish_step(done))
