"""journald stands still, restarts or dies: guests wait or count, and the account closes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from container.container import Container

from chdebugd.trace.journal import MessageId
from chdebugd.trace.ring import CAPACITY
from tests.guests import FOREVER, burst, mark
from tests.system.conftest import get, guest, wait_for
from tests.system.faults import (
    JOURNALD,
    NAMES,
    STANDSTILL,
    Writers,
    answer_times,
    assert_log,
    entries,
    journalled,
    kill,
    pass_a_moment,
    pid_of,
    stopped,
)

pytestmark = pytest.mark.kvm
FLOOD = CAPACITY + 2000
KILLS = 3


@pytest.fixture
def writers(fault_container: Container) -> Iterator[Writers]:
    with Writers(fault_container) as writers:
        yield writers


def test_a_journald_that_stands_still_stalls_nobody_else(writers: Writers) -> None:
    container = writers.container
    began = time.monotonic()
    with stopped(container, JOURNALD):
        times = answer_times(container)
        assert times[len(times) // 2] < 0.1
        assert times[-1] < STANDSTILL
        writers.wait_for_marks(400)
        time.sleep(max(began + STANDSTILL - time.monotonic(), 0))
    writers.wait_for_marks()
    writers.close_account()


def test_guests_that_flood_a_still_journald_wait_or_count_as_they_were_told(
    writers: Writers,
) -> None:
    container = writers.container
    flood = guest(container, "flood", burst(FLOOD) + mark(0x41) + FOREVER)
    with stopped(container, JOURNALD):
        container.start_vm("waits", flood, ("on-full", "s", "wait"))
        container.start_vm("drops", flood, ("on-full", "s", "drop"))
        wait_for(lambda: int(get(container, "waits", "EventCount")) >= CAPACITY)
        wait_for(lambda: int(get(container, "drops", "DroppedEvents")) > 0)
        writers.wait_for_marks()

    wait_for(lambda: int(get(container, "waits", "EventCount")) == FLOOD + 1)
    wait_for(lambda: len(sequence(container, "waits")) == FLOOD + 1)
    assert sequence(container, "waits") == list(range(1, FLOOD + 2))
    assert int(get(container, "waits", "StalledUSec")) > 0
    wait_for(lambda: get(container, "drops", "LastCode") == str(0x41))
    kept = int(get(container, "drops", "EventCount"))
    wait_for(lambda: len(sequence(container, "drops")) == kept)
    dropped = int(get(container, "drops", "DroppedEvents"))
    assert kept + dropped == FLOOD + 1
    told = entries(container, MessageId.VM_DROPPED, "drops")
    assert sum(int(entry["DROPPED"]) for entry in told) == dropped
    writers.close_account()


def sequence(container: Container, name: str) -> list[int]:
    match = [f"VM={name}", f"VM_BOOT={get(container, name, 'BootID')}"]
    words = ["journalctl", "--quiet", "--output=cat", "--output-fields=SEQ", *match]
    done = container.run(*words, f"MESSAGE_ID={MessageId.EVENT}")
    return [int(line) for line in done.stdout.split()]


def test_a_restarted_journald_has_every_mark(writers: Writers) -> None:
    container = writers.container
    for _ in range(3):
        pass_a_moment()
        container.run("systemctl", "restart", JOURNALD)
        writers.wait_for_marks(50)
    writers.close_account()


def test_a_killed_journald_lacks_no_more_than_it_held_in_its_hands(writers: Writers) -> None:
    """It takes an entry from its socket before it stores it: a kill between the two loses one."""
    container = writers.container
    for _ in range(KILLS):
        pass_a_moment()
        old = pid_of(container, JOURNALD)
        kill(container, JOURNALD)
        wait_for(lambda old=old: pid_of(container, JOURNALD) not in (0, old))  # type: ignore[misc]
        writers.wait_for_marks(50)
    written = writers.end()
    lacking = 0
    for name in NAMES:
        marks = journalled(container, name)
        assert [seq for seq, _ in marks] == sorted({seq for seq, _ in marks})
        assert all(code == (seq - 1) & 0xFF for seq, code in marks)
        lacking += written[name] - len(marks)
        assert_log(container, name, written[name])
    assert lacking <= KILLS
