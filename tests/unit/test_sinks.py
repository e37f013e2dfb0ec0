"""The two lasting sinks: what they write, in which order, and how they go on after a death."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from chdebugd.trace.journal import ERR, INFO, Journal, MessageId
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.log_sink import LogSink
from chdebugd.trace.ring import BATCH, Reader, Ring
from chdebugd.trace.sink import Progress


@pytest.fixture
def ring(ring: Ring) -> Ring:
    """Its log begins before the VM's start; no line is made of the boot before."""
    ring.start_boot(2_000_000, 1_000_000)
    return ring


def write(ring: Ring, *codes: int) -> None:
    assert all(ring.write(code) for code in codes)


def fields(journald: socket.socket) -> list[dict[str, str]]:
    """All entries that wait."""
    entries = []
    try:
        while True:
            lines = journald.recv(1 << 16).decode().splitlines()
            entries.append(dict(line.split("=", 1) for line in lines))
    except BlockingIOError:
        return entries


def test_entries_lie_between_the_events_they_were_posted_between(
    ring: Ring, journald: socket.socket, tmp_path: Path
) -> None:
    journal = Journal(str(tmp_path / "socket"))
    sink = JournalSink(ring, journal, "fw0", None)
    write(ring, 1)
    sink.post(MessageId.VM_STATE, "paused", INFO)
    write(ring, 2)

    assert sink.drain() == Progress.DRAINED
    entries = fields(journald)
    sink.post(MessageId.VM_STATE, "stopped", INFO)
    assert sink.drain() == Progress.IDLE
    entries += fields(journald)

    assert [each.get("CODE", each["MESSAGE"]) for each in entries] == [
        "0x1",
        "paused",
        "0x2",
        "stopped",
    ]
    assert sink.is_empty
    journal.close()


def test_a_journald_that_does_not_read_loses_nothing(
    ring: Ring, journald: socket.socket, tmp_path: Path
) -> None:
    journal = Journal(str(tmp_path / "socket"))
    sink = JournalSink(ring, journal, "fw0", None)
    write(ring, *range(200))

    entries = []
    while sink.drain() == Progress.BLOCKED:
        assert ring.position(Reader.JOURNAL) < 200
        entries += fields(journald)
    entries += fields(journald)

    assert [int(each["SEQ"]) for each in entries] == list(range(1, 201))
    journal.close()


def test_a_journald_that_comes_back_gets_the_rest(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as first:
        first.bind(str(path))
        journal = Journal(str(path))
        sink = JournalSink(ring, journal, "fw0", None)
    path.unlink()
    write(ring, 1)
    assert sink.drain() == Progress.BLOCKED

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as second:
        second.bind(str(path))
        assert sink.drain() == Progress.DRAINED
        assert [each["CODE"] for each in fields(second)] == ["0x1"]
    journal.close()


def test_a_level_leaves_events_out(ring: Ring, journald: socket.socket, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "socket"))
    sink = JournalSink(ring, journal, "fw0", None)
    sink.level = ERR
    write(ring, 1)
    sink.post(MessageId.VM_STATE, "fine", INFO)
    sink.post(MessageId.VM_FAILED, "bad", ERR)
    sink.drain()

    assert [each["MESSAGE"] for each in fields(journald)] == ["bad"]
    assert sink.is_empty
    journal.close()


# The log file


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def test_the_first_figure_counts_from_the_start_of_the_log(ring: Ring, tmp_path: Path) -> None:
    sink = LogSink(ring, open_log(tmp_path / "log"))
    write(ring, 0x41)
    sink.drain()
    [event], _ = ring.copy(0)

    [line] = lines(tmp_path / "log")

    since = f"{(event.elapsed_nsec + 1_000_000) / 1e6:.6f}ms"
    assert line.startswith(f"chdebugd: {since}: DEBUG:vmm/debug_port -- [Debug I/O port: Kernel")
    sink.close()


@pytest.mark.parametrize("written", [0, 1, 50, 109, 110, 111, 5000, 10**9])
def test_a_file_goes_on_where_a_death_cut_it(ring: Ring, tmp_path: Path, written: int) -> None:
    """The process wrote so many bytes of its batch, and moved its position behind none of them."""
    path = tmp_path / "log"
    write(ring, *range(20))
    before = LogSink(ring, open_log(path))
    before.drain()
    write(ring, *range(100))
    position = ring.position(Reader.LOG)
    before.drain()
    whole = path.read_bytes()
    half = len("".join(f"{line}\n" for line in lines(path)[:20]).encode())
    os.truncate(path, min(half + written, len(whole)))
    ring.move(Reader.LOG, position)

    after = LogSink(ring, open_log(path))
    after.resume(path.read_bytes())
    while after.drain() != Progress.IDLE:
        continue

    assert path.read_bytes() == whole
    assert ring.position(Reader.LOG) == ring.head
    before.close()
    after.close()


def test_a_file_that_was_rotated_away_gets_every_line(ring: Ring, tmp_path: Path) -> None:
    write(ring, 1, 2)
    sink = LogSink(ring, open_log(tmp_path / "log"))
    sink.resume(b"")
    sink.resume(b"something else\n")
    sink.drain()

    assert len(lines(tmp_path / "log")) == 2
    sink.close()


def test_without_a_file_the_position_follows(ring: Ring) -> None:
    sink = LogSink(ring)
    write(ring, *([7] * (BATCH + 1)))

    assert sink.drain() == Progress.DRAINED
    assert ring.position(Reader.LOG) == ring.head
    assert sink.drain() == Progress.IDLE


def test_a_full_disk_costs_lines_that_are_counted(ring: Ring) -> None:
    sink = LogSink(ring, os.open("/dev/full", os.O_WRONLY))
    write(ring, 1, 2, 3)

    sink.drain()

    assert sink.lost_lines == 3
    assert sink.error is not None
    assert ring.position(Reader.LOG) == ring.head
    sink.close()
