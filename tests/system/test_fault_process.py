"""A VM process is killed: its last marks are there, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from container.container import EVENT, Container

from chdebugd.trace.journal import MessageId
from tests.system.conftest import call_vm, get, wait_for, wait_state
from tests.system.faults import (
    DAEMON,
    JOURNALD,
    Writers,
    assert_account,
    assert_log,
    drop_in,
    entries,
    is_up,
    journalled,
    kill,
    log_codes,
    pass_a_moment,
    pid_of,
    stopped,
    unit_of,
)

pytestmark = pytest.mark.kvm
SOCKET_HOLDS = 300  # entries by each of three that wait in journald's socket; the rest waits for us
KEEP_RESULT = "ExecStopPost=+/bin/sh -c 'echo $SERVICE_RESULT > /run/result'"
VICTIM, OTHERS = "w1", ("w0", "w2")


@pytest.fixture
def writers(fault_container: Container) -> Iterator[Writers]:
    with Writers(fault_container) as writers:
        yield writers


def test_what_a_killed_process_left_is_in_the_journal(writers: Writers) -> None:
    """journald stands still before, so that there is something left."""
    container = writers.container
    with stopped(container, JOURNALD):
        writers.wait_for_marks(SOCKET_HOLDS)
        pass_a_moment()
        kill(container, unit_of(VICTIM))
        wait_state(container, VICTIM, "failed")
        writers.wait_for_marks(20, *OTHERS)

    assert get(container, VICTIM, "Result") == "process-died"
    written = int(get(container, VICTIM, "EventCount"))
    wait_for(lambda: bool(entries(container, MessageId.RECOVERED, VICTIM)))
    wait_for(lambda: bool(entries(container, MessageId.VM_FAILED, VICTIM)))
    [failed] = entries(container, MessageId.VM_FAILED, VICTIM)
    assert "The VM process was ended by signal 9 (Killed)" in failed["MESSAGE"]
    assert_account(container, VICTIM, written)
    assert_log(container, VICTIM, written)
    writers.close_account()


def test_what_both_left_is_in_the_journal_or_declared(writers: Writers) -> None:
    container = writers.container
    with stopped(container, JOURNALD):
        writers.wait_for_marks(SOCKET_HOLDS)
        pass_a_moment()
        kill(container, DAEMON)
        kill(container, unit_of(VICTIM))
    wait_for(lambda: is_up(container))
    wait_state(container, VICTIM, "failed")

    wait_for(
        lambda: bool(
            entries(container, MessageId.RECOVERED, VICTIM)
            or entries(container, MessageId.RING_LOST, VICTIM)
        )
    )
    marks = journalled(container, VICTIM)
    assert [seq for seq, _ in marks] == list(range(1, len(marks) + 1))
    for declared in entries(container, MessageId.RING_LOST, VICTIM):
        assert int(declared["LAST_SEQ"]) == len(marks)
    for recovered in entries(container, MessageId.RECOVERED, VICTIM):
        assert int(get(container, VICTIM, "EventCount")) == len(marks) + int(recovered["LOST"])
    writers.wait_for_marks(20, *OTHERS)
    for name in OTHERS:
        assert get(container, name, "State") == "running"


def test_the_daemon_restarts_amid_a_takeover(writers: Writers) -> None:
    """journald does not show what it has; the next daemon goes on."""
    container = writers.container
    with drop_in(container, DAEMON, KEEP_RESULT), stopped(container, JOURNALD):
        writers.wait_for_marks(SOCKET_HOLDS)
        kill(container, unit_of(VICTIM))
        wait_state(container, VICTIM, "failed")
        container.run("systemctl", "restart", DAEMON)
        wait_state(container, VICTIM, "failed")
        assert not entries(container, MessageId.VM_FAILED, VICTIM)

    wait_for(lambda: bool(entries(container, MessageId.VM_FAILED, VICTIM)))
    [failed] = entries(container, MessageId.VM_FAILED, VICTIM)
    assert failed["RESULT"] == "process-died"
    written = int(get(container, VICTIM, "EventCount"))
    assert_account(container, VICTIM, written)
    assert_log(container, VICTIM, written)
    writers.close_account()
    assert container.get("/run/result") == b"success\n"


def test_a_vm_starts_again_amid_a_takeover_that_the_daemon_does_not_outlive(
    writers: Writers,
) -> None:
    """systemd keeps both rings of the VM."""
    container = writers.container
    former = get(container, VICTIM, "BootID")
    with stopped(container, JOURNALD):
        writers.wait_for_marks(SOCKET_HOLDS)
        kill(container, unit_of(VICTIM))
        wait_state(container, VICTIM, "failed")
        written = int(get(container, VICTIM, "EventCount"))
        call_vm(container, VICTIM, "Start")
        writers.wait_for_marks(20)
        old = pid_of(container, DAEMON)
        kill(container, DAEMON)
        wait_for(lambda: pid_of(container, DAEMON) not in (0, old))

    def told() -> list[dict[str, str]]:
        return container.journal(VM_BOOT=former, MESSAGE_ID=MessageId.VM_FAILED.value)

    wait_for(lambda: bool(told()))
    assert [entry["RESULT"] for entry in told()] == ["process-died"]
    marks = container.journal(VM_BOOT=former, MESSAGE_ID=EVENT)
    assert [int(entry["SEQ"]) for entry in marks] == list(range(1, written + 1))
    wait_for(lambda: is_up(container))
    writers.close_account(log=False)
    codes = log_codes(container, f"/var/log/chdebugd/{VICTIM}.log")
    again = int(get(container, VICTIM, "EventCount"))
    expected = [n & 0xFF for n in range(written)] + [n & 0xFF for n in range(again)]
    assert sorted(codes) == sorted(expected)
