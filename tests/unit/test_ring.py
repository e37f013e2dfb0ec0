"""The event ring: its rules under load and sanitizers, and what Python makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chdebugd.trace.ring import CAPACITY, KEPT, Reader, Ring

TRACE = Path(__file__).parents[2] / "chdebugd" / "trace"
RACE = Path(__file__).with_name("ring_race.c")
LONG = 3600.0  # seconds
CFLAGS = ["-std=gnu11", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
# The thread sanitizer knows few address layouts; setarch gives it one that it knows.
SAME_LAYOUT = ["setarch", "--addr-no-randomize"]


def same_layout() -> list[str]:
    """Words before a command; none where a container forbids it (personality(2))."""
    allowed = subprocess.run([*SAME_LAYOUT, "true"], capture_output=True, check=False)
    return [] if allowed.returncode else SAME_LAYOUT


@pytest.mark.parametrize(
    "sanitizers",
    [[], ["-fsanitize=thread"], ["-fsanitize=address,undefined", "-fno-sanitize-recover"]],
    ids=["plain", "thread", "address"],
)
def test_producers_and_readers_race_and_every_rule_of_the_ring_holds(
    sanitizers: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "ring_race"
    command = ["gcc", *CFLAGS, *sanitizers, f"-I{TRACE}", str(RACE), "-pthread"]
    subprocess.run([*command, "-o", str(program)], check=True)
    producers, events = 4, CAPACITY  # four times round the ring

    race = subprocess.run(
        [*same_layout(), str(program), str(producers), str(events)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (race.returncode, race.stderr) == (0, "")
    assert 0 < int(race.stdout) < producers * events, "the slow reader was never lapped"


def test_a_full_ring_takes_no_more_until_both_durable_readers_moved(ring: Ring) -> None:
    for _ in range(CAPACITY):
        assert ring.write(0x40)

    assert not ring.write(0x41)
    ring.move(Reader.JOURNAL, KEPT + 1)
    assert not ring.write(0x41)
    ring.move(Reader.LOG, 1)
    assert ring.write(0x41)
    assert ring.head == CAPACITY + 1


def test_what_went_to_journald_last_is_kept(ring: Ring) -> None:
    for _ in range(CAPACITY):
        assert ring.write(0x40)
    ring.move(Reader.LOG, CAPACITY)

    ring.move(Reader.JOURNAL, KEPT)

    assert not ring.write(0x41)
    assert ring.is_full


def test_a_ring_that_is_held_keeps_more_until_it_is_released(ring: Ring) -> None:
    ring.hold(LONG)
    for _ in range(CAPACITY):
        assert ring.write(0x40)
    for reader in (Reader.JOURNAL, Reader.LOG):
        ring.move(reader, CAPACITY)
    ring.hold(LONG)

    assert not ring.write(0x41)
    ring.release()
    assert ring.write(0x41)


def test_nobody_holds_a_ring_beyond_his_time(ring: Ring) -> None:
    ring.hold(0)
    for _ in range(CAPACITY):
        assert ring.write(0x40)
    for reader in (Reader.JOURNAL, Reader.LOG):
        ring.move(reader, CAPACITY)

    assert ring.write(0x41)


def test_a_boot_is_known_by_its_id(ring: Ring) -> None:
    ring.start_boot(0, 0)

    assert [ring.boot_of(ring.boot_id(boot)) for boot in (1, 2)] == [1, 2]
    assert ring.boot_of(ring.boot_id(3)) is None
    assert ring.boot_of("0" * 32) is None


def test_a_full_ring_that_drops_counts_what_it_drops(ring: Ring) -> None:
    ring.set_drop_when_full(True)

    for _ in range(CAPACITY + 3):
        assert ring.write(0x40)

    assert (ring.head, ring.dropped) == (CAPACITY, 3)


def test_a_reader_that_was_lapped_is_told_how_many_it_lost(ring: Ring) -> None:
    for at in range(CAPACITY + 5):
        ring.move(Reader.JOURNAL, at)
        ring.move(Reader.LOG, at)
        ring.write(at % 256)

    events, lost = ring.copy(0)

    assert lost == 5
    assert (events[0].ticket, events[0].code) == (6, 5)


def test_pages_that_are_all_had_keep_what_is_in_them(ring: Ring) -> None:
    for at in range(1000):
        ring.write(at % 256)
    before, size = ring.copy(500), os.fstat(ring.fd).st_size
    assert 512 * os.fstat(ring.fd).st_blocks < size

    ring.populate()

    assert 512 * os.fstat(ring.fd).st_blocks >= size
    assert ring.copy(500) == before
    assert ring.head == 1000


def test_pages_that_are_released_keep_what_is_in_them(ring: Ring) -> None:
    for at in range(1000):
        ring.write(at % 256)
    before = ring.copy(500)

    ring.release_pages()

    assert ring.copy(500) == before
    assert ring.head == 1000


TAKEN_AWAY = """
import os
from chdebugd.trace.ring import Ring

ring = Ring.create()
os.fchmod(ring.fd, 0)
print(ring.duplicate().head)
"""
# Root may open what nobody may, unless it has no capabilities.
AS_A_USER = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def test_a_ring_whose_process_took_our_rights_away_is_held_all_the_same() -> None:
    command = [*AS_A_USER, sys.executable, "-c", TAKEN_AWAY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "0\n"
