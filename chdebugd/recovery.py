"""Writes what a dead VM process left in its ring, so that no mark is lost and none comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from chdebugd.control import close_all
from chdebugd.trace.codemap import CodeMap, CodeMapError
from chdebugd.trace.journal import LEVELS, SOCKET, WARNING, Journal, MessageId
from chdebugd.trace.journal_reader import last_sequence
from chdebugd.trace.ring import Reader, Ring
from chdebugd.trace.sinks import JournalSink, LogSink, Progress
from chdebugd.vm import VM

log = logging.getLogger(__name__)
RETRY = 0.1  # seconds until a journald without a socket is tried again


class Recovery:
    """Takes over both lasting sinks of a ring whose writers are all dead."""

    def __init__(self, journal: str) -> None:
        """`journal` is the path of journald's socket, empty for the usual one."""
        self._path = journal or SOCKET
        self._asks_journal = not journal

    async def recover(self, vm: VM, log_fd: int) -> None:
        """Drain what is left; entries then say how much it was, and what was lost."""
        ring = vm.ring
        assert ring is not None
        pending = ring.head - min(ring.position(Reader.JOURNAL), ring.position(Reader.LOG))
        if not pending:
            return
        if self._asks_journal:
            await asyncio.to_thread(self._skip_written, ring)
        journal = Journal(self._path)
        sink = JournalSink(ring, journal, vm.name, _codes(vm))
        sink.level = LEVELS[vm.options.request.log_level]
        log_sink = LogSink(ring, os.dup(log_fd) if log_fd >= 0 else -1)
        try:
            left = ring.head - ring.position(Reader.JOURNAL)
            lost = await self._drain(ring, sink, log_sink)
            text = (
                f"{left - lost} events of VM '{vm.name}' came out of the ring of its dead process"
            )
            fields = {"RECOVERED": str(left - lost), "LOST": str(lost)}
            sink.post(MessageId.RECOVERED, text, WARNING, **fields)
            await self._drain(ring, sink, log_sink)
        finally:
            journal.close()
            log_sink.close()

    def _skip_written(self, ring: Ring) -> None:
        """The process may have died between an entry and the position behind it."""
        events, _ = ring.copy(ring.position(Reader.JOURNAL))
        if not events:
            return
        last = last_sequence(ring.boot_id(events[0].boot))
        written = [e for e in events if e.boot == events[0].boot and e.seq <= last]
        if written:
            ring.move(Reader.JOURNAL, written[-1].ticket)

    async def _drain(self, ring: Ring, sink: JournalSink, log_sink: LogSink) -> int:
        """Until both are empty; returns how many records were torn by the death of a vCPU."""
        lost = 0
        while True:
            journal, lines = sink.drain(), log_sink.drain()
            if journal == Progress.BLOCKED:
                await _wait_writable(sink.journal)
            elif journal == lines == Progress.IDLE:
                torn = self._step_over_torn(ring)
                if not torn:
                    return lost
                lost += torn
            else:
                await asyncio.sleep(0)

    def _step_over_torn(self, ring: Ring) -> int:
        """A ticket that was taken and never written stops both readers at the same place."""
        position = ring.position(Reader.JOURNAL)
        if position >= ring.head:
            return 0
        ring.move(Reader.JOURNAL, position + 1)
        ring.move(Reader.LOG, max(position + 1, ring.position(Reader.LOG)))
        return 1


def _codes(vm: VM) -> CodeMap | None:
    name = vm.options.request.code_map
    with contextlib.suppress(CodeMapError):
        return CodeMap.load(name) if name else None
    return None


async def _wait_writable(journal: Journal) -> None:
    """Until journald reads again."""
    if not journal.is_connected:
        await asyncio.sleep(RETRY)
        return
    loop = asyncio.get_running_loop()
    fd = os.dup(journal.fileno())
    writable = asyncio.Event()
    loop.add_writer(fd, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(fd)
        close_all([fd])
