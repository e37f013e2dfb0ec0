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
    DAEMON,
    JOURNALD,
    NAMES,
    STANDSTILL,
    Writers,
    answer_times,
    answering,
    assert_log,
    entries,
    kill,
    pass_a_moment,
    pid_of,
    stopped,
)

pytestmark = pytest.mark.kvm
FLOOD = CAPACITY + 2000
KILLS = 3
SOCKET = "/run/systemd/journal/socket"
THIEF = "/srv/thief.py"
THIEF_SOURCE = f"""
import ctypes, os, re, select, socket, sys
PIDFD_GETFD = 438
pid = int(sys.argv[1])
pidfd = os.pidfd_open(pid)
for fd in map(int, os.listdir(f"/proc/{{pid}}/fd")):
    if not os.readlink(f"/proc/{{pid}}/fd/{{fd}}").startswith("socket:"):
        continue
    theirs = socket.socket(fileno=ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, fd, 0))
    if theirs.getsockname() == "{SOCKET}":
        break
else:
    sys.exit("journald has no such socket")
data = b""
while not re.search(rb"^SEQ=", data, re.MULTILINE):
    select.select([theirs], [], [])
    data = theirs.recv(1 << 16)
print(re.search(rb"^VM=(.*)", data, re.MULTILINE)[1].decode(),
      re.search(rb"^SEQ=(.*)", data, re.MULTILINE)[1].decode())
"""


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
    with answering(container):
        for _ in range(3):
            pass_a_moment()
            container.run("systemctl", "restart", JOURNALD)
            writers.wait_for_marks(50)
    writers.close_account()


def test_a_killed_journald_has_every_mark(writers: Writers) -> None:
    container = writers.container
    with answering(container):
        for _ in range(KILLS):
            pass_a_moment()
            kill_journald(container)
            writers.wait_for_marks(50)
    close_account(writers)


def test_what_journald_held_when_it_was_killed_is_sent_again(writers: Writers) -> None:
    """What it had taken from its socket and not stored: we take it in its place."""
    container = writers.container
    taken = []
    for _ in range(KILLS):
        kill(container, JOURNALD, "STOP")
        writers.wait_for_marks(20)
        taken.append(take_a_mark(container))
        kill_journald(container)
        writers.wait_for_marks(50)
    close_account(writers, *taken)
    for name, seq in taken:
        [again] = [entry for entry in events(container, name) if int(entry["SEQ"]) == seq]
        assert "RESENT" in again
    told = [entry for name in NAMES for entry in entries(container, MessageId.SENT_AGAIN, name)]
    assert sum(int(entry["RECOVERED"]) for entry in told) == KILLS
    assert sum(int(entry["LOST"]) for entry in told) == 0


def test_what_journald_held_is_sent_again_by_the_next_daemon(writers: Writers) -> None:
    container = writers.container
    container.run("systemctl", "stop", DAEMON)
    kill(container, JOURNALD, "STOP")
    taken = take_a_mark(container)
    kill_journald(container)
    container.run("systemctl", "start", DAEMON)
    writers.wait_for_marks(50)
    close_account(writers, taken)


def test_a_flood_leaves_the_mark_that_journald_held_in_the_ring(writers: Writers) -> None:
    """The guest would overwrite it at once, as it waits for room."""
    container = writers.container
    count = 3 * CAPACITY
    container.start_vm("flood", guest(container, "flood", burst(count) + FOREVER))
    wait_for(lambda: int(get(container, "flood", "StalledUSec")) > 0)
    kill(container, JOURNALD, "STOP")
    taken = take_a_mark(container)
    kill_journald(container)
    wait_for(lambda: int(get(container, "flood", "EventCount")) == count)
    wait_for(lambda: len(sequence(container, "flood")) == count)
    assert sorted(sequence(container, "flood")) == list(range(1, count + 1))
    close_account(writers, *[taken] * (taken[0] in NAMES))


def kill_journald(container: Container) -> None:
    """Done when there is another one."""
    old = pid_of(container, JOURNALD)
    kill(container, JOURNALD)
    wait_for(lambda: pid_of(container, JOURNALD) not in (0, old))


def take_a_mark(container: Container) -> tuple[str, int]:
    """Take entries out of journald's socket, up to the first mark of a guest: its VM and SEQ."""
    container.put(THIEF, THIEF_SOURCE.encode())
    done = container.run("python3", THIEF, str(pid_of(container, JOURNALD)))
    name, seq = done.stdout.split()
    return name, int(seq)


def events(container: Container, name: str) -> list[dict[str, str]]:
    return entries(container, MessageId.EVENT, name)


def close_account(writers: Writers, *taken: tuple[str, int]) -> None:
    """All marks once; in order, but for those that came late because journald had been killed."""
    for name, seq in taken:
        wait_for(
            lambda name=name, seq=seq: any(  # type: ignore[misc]
                int(entry["SEQ"]) == seq for entry in events(writers.container, name)
            )
        )
    written = writers.end()
    for name in NAMES:
        marks = events(writers.container, name)
        in_turn = [int(entry["SEQ"]) for entry in marks if "RESENT" not in entry]
        assert in_turn == sorted(in_turn)
        codes = sorted((int(entry["SEQ"]), int(entry["CODE"], 16)) for entry in marks)
        assert codes == [(seq, (seq - 1) & 0xFF) for seq in range(1, written[name] + 1)]
        assert_log(writers.container, name, written[name])
