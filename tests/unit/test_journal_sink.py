"""What the journal's sink sends, in which order, and what it does where journald takes no more."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chdebugd.trace.codemap import CodeMap
from chdebugd.trace.journal import INFO, Journal, MessageId
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.ring import Reader, Ring
from chdebugd.trace.sink import Progress

UNTOLD = (Progress.MORE, Progress.DRAINED)


@pytest.fixture
def journal(journald: socket.socket) -> Iterator[Journal]:
    journal = Journal(journald.getsockname())
    yield journal
    journal.close()


def entries(sink: JournalSink, journald: socket.socket) -> list[dict[str, str]]:
    """Drain all, reading as journald does whenever its queue is full."""
    found: list[dict[str, str]] = []
    progress = None
    while progress != Progress.IDLE:
        progress = sink.drain()
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(parsed(journald.recv(65536)))
    return found


def parsed(data: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in data.decode().splitlines())


def test_an_event_is_one_entry_with_its_figures(
    ring: Ring, journal: Journal, journald: socket.socket
) -> None:
    ring.write(0x41, vcpu=3)
    ring.write(0xFF)
    [event, _], _ = ring.copy(0)

    first, second = entries(JournalSink(ring, journal, "fw0", None), journald)

    elapsed = f"{event.elapsed_nsec // 10**9}.{event.elapsed_nsec // 1000 % 10**6:06d}"
    assert first == {
        "SYSLOG_IDENTIFIER": "chdebugd",
        "PRIORITY": "7",
        "MESSAGE_ID": MessageId.EVENT.value,
        "VM": "fw0",
        "VM_BOOT": ring.boot_id(1),
        "COMPONENT": "Kernel",
        "CODE": "0x41",
        "MESSAGE": f"[Debug I/O port: Kernel code 0x41] {elapsed} seconds",
        "ELAPSED": elapsed,
        "ELAPSED_NSEC": str(event.elapsed_nsec),
        "SEQ": "1",
        "VCPU": "3",
    }
    assert (second["CODE"], second["COMPONENT"], second["SEQ"]) == ("0xff", "Custom", "2")


def test_all_codes_of_two_boots_have_their_own_fields(
    ring: Ring, journal: Journal, journald: socket.socket
) -> None:
    for boot in (1, 2):
        if boot == 2:
            ring.start_boot(0, 0)
        for code in range(256):
            ring.write(code)

    found = entries(JournalSink(ring, journal, "fw0", None), journald)

    told = [(entry["VM_BOOT"], entry["CODE"], entry["SEQ"]) for entry in found]
    assert told == [
        (ring.boot_id(boot), f"{code:#x}", str(code + 1)) for boot in (1, 2) for code in range(256)
    ]


def test_a_code_map_adds_its_fields(ring: Ring, journal: Journal, journald: socket.socket) -> None:
    codes = CodeMap.load("cloud-hypervisor")
    ring.write(0x40)

    [entry] = entries(JournalSink(ring, journal, "fw0", codes), journald)

    assert entry["CODE_NAME"] == codes.name(0x40)


def test_other_entries_come_where_they_were_posted(
    ring: Ring, journal: Journal, journald: socket.socket
) -> None:
    sink = JournalSink(ring, journal, "fw0", None)
    sink.post(MessageId.VM_STATE, "before", INFO)
    ring.write(0x40)
    sink.post(MessageId.VM_STATE, "between", INFO)
    sink.post(MessageId.VM_STATE, "and again", INFO)
    ring.write(0x41)
    sink.post(MessageId.VM_STATE, "behind", INFO)

    found = entries(sink, journald)

    told = [entry.get("CODE", entry["MESSAGE"]) for entry in found]
    assert told == ["before", "0x40", "between", "and again", "0x41", "behind"]
    assert sink.is_empty


def test_what_journald_does_not_take_is_sent_later_and_once(
    ring: Ring, journal: Journal, journald: socket.socket
) -> None:
    count = 5000
    for at in range(count):
        ring.write(at % 256)
    sink = JournalSink(ring, journal, "fw0", None)
    while sink.drain() in UNTOLD:
        pass
    assert 0 < ring.position(Reader.JOURNAL) < count, "its queue holds less"

    found = entries(sink, journald)

    assert [int(entry["SEQ"]) for entry in found] == list(range(1, count + 1))


def test_a_queue_that_others_filled_blocks_and_loses_nothing(
    ring: Ring, journal: Journal, journald: socket.socket
) -> None:
    others = Journal(journald.getsockname())
    while others.send(b"MESSAGE=of another VM\n"):
        pass
    ring.write(0x40)
    sink = JournalSink(ring, journal, "fw0", None)
    assert sink.drain() == Progress.BLOCKED

    *rest, last = entries(sink, journald)

    assert last["SEQ"] == "1"
    assert {entry["MESSAGE"] for entry in rest} == {"of another VM"}
    others.close()


def test_a_journald_that_starts_anew_is_found_again(
    ring: Ring, journal: Journal, journald: socket.socket, tmp_path: Path
) -> None:
    ring.write(0x40)
    sink = JournalSink(ring, journal, "fw0", None)
    journald.close()
    assert sink.drain() == Progress.BLOCKED
    assert not journal.is_connected
    (tmp_path / "socket").unlink()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as fresh:
        fresh.bind(str(tmp_path / "socket"))
        [entry] = entries(sink, fresh)

    assert entry["SEQ"] == "1"


@pytest.mark.parametrize("level", [INFO, None], ids=["level", "no journald"])
def test_events_that_nobody_wants_are_passed_over(
    level: int | None, ring: Ring, tmp_path: Path, journald: socket.socket
) -> None:
    there = Journal(journald.getsockname() if level else str(tmp_path / "none"))
    for _ in range(1000):
        ring.write(0x40)
    sink = JournalSink(ring, there, "fw0", None)
    sink.level = level or sink.level
    sink.post(MessageId.VM_STATE, "behind", INFO)

    found = entries(sink, journald)

    there.close()
    assert [entry["MESSAGE"] for entry in found] == (["behind"] if level else [])
    assert sink.is_empty
