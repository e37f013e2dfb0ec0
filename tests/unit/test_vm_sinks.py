"""A log file and a journald that take no more, and what a VM process does in a burst."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chdebugd.trace.journal import WARNING, Journal, MessageId
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.ring import CAPACITY, Reader, Ring
from chdebugd.vm_loop import VmLoop
from chdebugd.vm_sinks import VmSinks

EVENTS = 100  # lines of some 90 bytes, more than the pipe takes
PIPE_SIZE = 4096
ROOM = 1000  # bytes: some lines, and one in part
TIMEOUT = 120  # seconds for anything that must happen


def told(journald: socket.socket) -> list[bytes]:
    """The entries about the log file so far."""
    entries = []
    while True:
        try:
            entries.append(journald.recv(65536))
        except BlockingIOError:
            return [each for each in entries if MessageId.LOG_FILE_ERROR.encode() in each]


def test_a_full_log_file_is_told_once_and_once_more_when_there_is_room(tmp_path: Path) -> None:
    """A pipe stands in for the file: it takes a line in part and the rest of it alone later."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as journald:
        journald.bind(str(tmp_path / "journal"))
        ring, journal = Ring.create(), Journal(str(tmp_path / "journal"))
        ring.start_boot(0, 0)
        sinks = VmSinks(VmLoop(), ring, lambda: None)
        sinks.open_journal(journal, JournalSink(ring, journal, "fw0", None))
        assert sinks.journal is not None
        sinks.journal.level = WARNING
        reader, writer = os.pipe2(os.O_NONBLOCK)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        sinks.log.reopen(writer)
        for _ in range(EVENTS):
            ring.write(0x40)

        for _ in range(3):
            sinks.drain()
        [full] = told(journald)
        taken = os.read(reader, 1 << 20)
        for _ in range(3):
            sinks.drain()
        [room] = told(journald)
        taken += os.read(reader, 1 << 20)

        assert b"takes no lines" in full
        lost = EVENTS - taken.count(b"\n")
        assert f"takes lines again; {lost} are missing".encode() in room
        sinks.log.close()
        os.close(reader)
        journal.close()
        ring.close()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process takes more than ROOM bytes (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class SlowJournald:
    """A journald on the loop of those who write to it; it takes one entry a turn."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.entries: list[dict[str, str]] = []

    def leave_room(self, count: int) -> None:
        """For so many entries, however long the host's queues are (net.unix.max_dgram_qlen)."""
        while self._fill():
            continue
        for _ in range(count):
            self.take_one()

    def _fill(self) -> int:
        """How much one sender got in, before the queue or its own buffer was full."""
        sent = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.connect(self.socket.getsockname())
            with contextlib.suppress(BlockingIOError):
                while sender.send(b"MESSAGE_ID=another's\n"):
                    sent += 1
        return sent

    def take_one(self) -> None:
        lines = self.socket.recv(65536).decode().splitlines()
        self.entries.append(dict(line.split("=", 1) for line in lines))

    def of(self, kind: MessageId) -> list[dict[str, str]]:
        return [each for each in self.entries if each["MESSAGE_ID"] == kind.value]


def run_until_empty(loop: VmLoop, sinks: VmSinks, journald: SlowJournald) -> None:
    """All is handed over, and journald has taken it."""
    assert sinks.journal is not None

    def take() -> None:
        journald.take_one()
        if sinks.journal and sinks.journal.is_empty and is_idle(journald.socket):
            loop.stop()

    loop.add_reader(journald.socket, take)
    loop.call_later("stuck", TIMEOUT, lambda: pytest.fail("Some of it never came"))
    loop.run()


def is_idle(journald: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return not journald.recv(1, socket.MSG_PEEK)
    return True


def test_a_batch_that_the_host_takes_in_part_is_there_once(tmp_path: Path) -> None:
    """Within one drain the disk is full amid a line, and journald's queue amid the batch."""
    log, journald = tmp_path / "log", SlowJournald(tmp_path / "journal")
    ring, loop, journal = Ring.create(), VmLoop(), Journal(str(tmp_path / "journal"))
    ring.start_boot(0, 0)
    sinks = VmSinks(loop, ring, lambda: None)
    sinks.open_journal(journal, JournalSink(ring, journal, "fw0", None))
    sinks.log.reopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    codes = iter(range(256))

    def write(count: int) -> None:
        for _ in range(count):
            assert ring.write(next(codes), wake=(sinks.eventfd, -1))

    journald.leave_room(5)
    write(100)
    with full_disk():
        sinks.drain()
        assert log.stat().st_size == ROOM
        assert not log.read_bytes().endswith(b"\n")
        assert ring.position(Reader.JOURNAL) == 5
        write(50)
        sinks.drain()
    write(50)
    run_until_empty(loop, sinks, journald)

    marks = [(int(each["SEQ"]), int(each["CODE"], 16)) for each in journald.of(MessageId.EVENT)]
    assert marks == [(code + 1, code) for code in range(200)]
    full, room = journald.of(MessageId.LOG_FILE_ERROR)
    assert "File too large" in full["MESSAGE"]
    lines = log.read_text().splitlines()
    assert all(line.startswith("chdebugd: ") and line.endswith(" seconds") for line in lines)
    lost = int(room["LOST_LINES"])
    assert len(lines) + lost == 200
    written = [int(line.split("] ")[0].split("code ")[1], 16) for line in lines]
    assert written == [*range(150 - lost), *range(150, 200)]
    sinks.log.close()
    journald.socket.close()
    journal.close()
    ring.close()


def test_a_burst_gets_the_pages_of_the_ring_before_it_needs_them() -> None:
    """In steps, of which one must pass fast enough to be a burst on this host."""
    ring = Ring.create()
    ring.start_boot(0, 0)
    loop = VmLoop()
    sinks = VmSinks(loop, ring, lambda: None)

    def write(steps: int) -> None:
        for _ in range(2000):
            ring.write(0x40, wake=(sinks.eventfd, -1))
        missing = os.fstat(ring.fd).st_size > 512 * os.fstat(ring.fd).st_blocks
        if missing and steps:
            loop.call_later("guest", 0, lambda: write(steps - 1))
        else:
            loop.stop()

    sinks.wake()
    loop.call_later("guest", 0, lambda: write(25))
    loop.run()

    assert ring.head < CAPACITY
    assert 512 * os.fstat(ring.fd).st_blocks >= os.fstat(ring.fd).st_size
    ring.close()
