"""What a VM process tells of a log file that takes no lines, and what it does in a burst."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from chdebugd.trace.journal import WARNING, Journal, MessageId
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.ring import CAPACITY, Ring
from chdebugd.vm_loop import VmLoop
from chdebugd.vm_sinks import VmSinks

EVENTS = 100  # lines of some 90 bytes, more than the pipe takes
PIPE_SIZE = 4096


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
