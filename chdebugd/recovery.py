"""Writes what a dead VM process left in its ring, so that no mark is lost and none comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from functools import partial

from chdebugd.control import Status
from chdebugd.journal_questions import SHORTAGES, ask, has_stored, when_there_is_room
from chdebugd.remains import Remains
from chdebugd.trace.codemap import CodeMap, CodeMapError
from chdebugd.trace.journal import ERR, INFO, SOCKET, WARNING, Journal, MessageId, entry
from chdebugd.trace.journal_reader import dropped_told, has_end, last_mark, last_sequence
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.log_sink import LogSink
from chdebugd.trace.ring import CAPACITY, Reader, Ring
from chdebugd.trace.sink import Progress
from chdebugd.vmm.outcome import GOOD

RETRY = 0.1  # seconds until a journald without a socket is tried again
SHOWN_WITHIN = 60.0  # seconds for journald to show an entry that it has taken
BOOTS = 4096  # last boots of a process, in which its drops were told
LOG_TAIL = 256 * 1024  # bytes: more than a batch of log lines


class Recovery:
    """Takes over both lasting sinks of a ring whose writers are all dead."""

    def __init__(self, journal: str) -> None:
        """`journal` is the path of journald's socket, empty for the usual one."""
        self._path = journal or SOCKET
        self._asks_journal = not journal
        self._turn = asyncio.Lock()
        """One batch a turn of the loop, however many died at once: callers want their answers."""
        self._running: dict[tuple[str, str], asyncio.Event] = {}

    async def recover(self, remains: Remains, end: asyncio.Future[Status] | None) -> None:
        """Drain what is left. `end` is what to tell of the VM's end where its process could not.

        A boot is taken over once, should two ask for it: a daemon may meet its VMs anew.
        """
        if end is None and not remains.is_behind:
            return
        boot = remains.name, remains.counts.boot_id
        if boot in self._running:
            await self._running[boot].wait()
            return
        over = self._running[boot] = asyncio.Event()
        try:
            journal = await when_there_is_room(partial(Journal, self._path))
            with contextlib.closing(journal):
                await self._recover(remains, end, journal)
        finally:
            del self._running[boot]
            over.set()

    async def _recover(
        self, remains: Remains, end: asyncio.Future[Status] | None, journal: Journal
    ) -> None:
        ring = remains.ring
        is_sure = await self._catch_up(remains, journal)
        if ring is not None and _is_sane(ring):
            await self._drain_ring(remains, ring, journal, is_sure)
        else:
            await self._declare_lost(remains, journal)
        if end is not None and not await self._has_end(remains):
            await send(journal, _end_entry(remains, await end))

    async def _catch_up(self, remains: Remains, journal: Journal) -> bool:
        """Until journald has stored all that the process sent; False where it does not tell."""
        takeover_id = secrets.token_hex(16)
        text = f"The process of VM '{remains.name}' is dead; chdebugd takes over its marks"
        fields = about(remains.name, MessageId.TAKEOVER, remains.counts.boot_id)
        await send(journal, entry(text, WARNING, fields | {"TAKEOVER_ID": takeover_id}))
        if not self._asks_journal or not journal.exists:
            return True
        return await has_stored(takeover_id, SHOWN_WITHIN)

    async def _has_end(self, remains: Remains) -> bool:
        """The process, or a daemon before us, may have told it and died before we knew."""
        return self._asks_journal and await ask(has_end, remains.counts.boot_id)

    async def _declare_lost(self, remains: Remains, journal: Journal) -> None:
        """There is no ring any more; the journal knows how far it came."""
        name = remains.name
        mark = await ask(last_mark, name) if self._asks_journal else None
        boot, seq = mark or (remains.counts.boot_id, 0)
        text = f"Marks of VM '{name}' after number {seq} of this boot, if there were any, are lost"
        fields = about(name, MessageId.RING_LOST, boot) | {"LAST_SEQ": str(seq)}
        await send(journal, entry(text, WARNING, fields))

    async def _drain_ring(
        self, remains: Remains, ring: Ring, journal: Journal, is_sure: bool
    ) -> None:
        if self._asks_journal:
            await _skip_written(ring)
        sink = JournalSink(ring, journal, remains.name, codes(remains.code_map))
        sink.level = remains.level
        log_sink = LogSink(ring, remains.log_fd)
        log_sink.resume(await when_there_is_room(partial(_tail, log_sink.fd)))
        left = ring.head - ring.position(Reader.JOURNAL)
        lost = await self._drain(ring, sink, log_sink)
        if ring.dropped and self._asks_journal:
            await _tell_drops(remains, ring, journal)
        if left:
            name = remains.name
            text = f"{left - lost} events of VM '{name}' came out of the ring of its dead process"
            fields = about(name, MessageId.RECOVERED, remains.counts.boot_id)
            fields |= {"RECOVERED": str(left - lost), "LOST": str(lost)}
            if not is_sure:
                fields["UNVERIFIED"] = "journald did not show what it has; one mark may be double"
            await send(journal, entry(text, WARNING, fields))

    async def _drain(self, ring: Ring, sink: JournalSink, log_sink: LogSink) -> int:
        """Until both are empty; returns how many records were torn by the death of a vCPU."""
        lost = 0
        while True:
            async with self._turn:
                journal, lines = sink.drain(), log_sink.drain()
                await asyncio.sleep(0)
            if journal == Progress.BLOCKED and lines == Progress.IDLE:
                await _wait_writable(sink.journal)
            elif journal == lines == Progress.IDLE:
                torn = _step_over_torn(ring)
                if not torn:
                    return lost
                lost += torn


async def _tell_drops(remains: Remains, ring: Ring, journal: Journal) -> None:
    """Those that the process had counted and not told."""
    boots = range(max(ring.boot - BOOTS, 0) + 1, ring.boot + 1)
    told = await ask(dropped_told, remains.name, {ring.boot_id(boot) for boot in boots})
    new = ring.dropped - told
    if new > 0:
        text = f"{new} events found the ring full and were dropped"
        fields = about(remains.name, MessageId.VM_DROPPED, remains.counts.boot_id)
        await send(journal, entry(text, WARNING, fields | {"DROPPED": str(new)}))


def _is_sane(ring: Ring) -> bool:
    """A process that its guest took over may have written anything."""
    behind = [ring.head - ring.position(each) for each in (Reader.JOURNAL, Reader.LOG)]
    return all(0 <= each <= CAPACITY for each in behind)


async def _skip_written(ring: Ring) -> None:
    """The process may have died between an entry and the position behind it.

    The question takes nothing of the ring along: that may be closed before it is answered.
    """
    events, _ = ring.copy(ring.position(Reader.JOURNAL))
    if not events:
        return
    last = await ask(last_sequence, ring.boot_id(events[0].boot))
    written = [e for e in events if e.boot == events[0].boot and e.seq <= last]
    if written:
        ring.move(Reader.JOURNAL, written[-1].ticket)


def _step_over_torn(ring: Ring) -> int:
    """A ticket that was taken and never written stops both readers at the same place."""
    position = ring.position(Reader.JOURNAL)
    if position >= ring.head:
        return 0
    ring.move(Reader.JOURNAL, position + 1)
    ring.move(Reader.LOG, max(position + 1, ring.position(Reader.LOG)))
    return 1


def about(name: str, kind: MessageId, boot_id: str) -> dict[str, str]:
    """What every entry about the VM `name` says."""
    return {"MESSAGE_ID": kind.value, "VM": name, "VM_BOOT": boot_id}


def _end_entry(remains: Remains, status: Status) -> bytes:
    is_good = status.result in GOOD
    kind = MessageId.VM_STOPPED if is_good else MessageId.VM_FAILED
    fields = about(remains.name, kind, remains.counts.boot_id) | {"RESULT": status.result}
    text = f"VM '{remains.name}' {status.state}: {status.sentence}"
    return entry(text, INFO if is_good else ERR, fields | {"EVENTS": str(remains.counts.events)})


def codes(name: str) -> CodeMap | None:
    """The code map `name`; None for an empty name, and where it cannot be read now."""
    with contextlib.suppress(CodeMapError):
        return CodeMap.load(name) if name else None
    return None


def _tail(fd: int) -> bytes:
    """The end of a log file; nothing where the daemon may write it and not read it.

    Raises OSError where it may read it at another time.
    """
    try:
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""
    try:
        size = os.fstat(reader).st_size
        return os.pread(reader, LOG_TAIL, max(size - LOG_TAIL, 0))
    except OSError:
        return b""
    finally:
        os.close(reader)


async def send(journal: Journal, data: bytes) -> None:
    """As soon as journald takes it."""
    while not journal.send(data):
        await _wait_writable(journal)


async def _wait_writable(journal: Journal) -> None:
    """Until journald reads again."""
    if not journal.is_connected:
        await asyncio.sleep(RETRY)
        return
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(journal.fileno(), writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(journal.fileno())
