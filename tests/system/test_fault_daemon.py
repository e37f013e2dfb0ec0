"""The daemon dies, restarts, is upgraded or hangs, or systemd does: guests do not notice."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.container import Container

from tests.system.conftest import TIMEOUT, get, wait_for
from tests.system.faults import (
    DAEMON,
    MANAGER,
    NAMES,
    Writers,
    drop_in,
    is_up,
    kill,
    list_vms,
    monitor,
    pass_a_moment,
    pid_of,
    unit_of,
)

pytestmark = pytest.mark.kvm
TIMES = 20
GO = "/run/chdebugd/vm/slow/go"  # of the host, a VM's unit sees that directory
WAIT_FOR_GO = f"import os, time\nwhile not os.path.exists('{GO}'): time.sleep(0.1)"
WAIT = "ExecStartPre=python3 -c " + json.dumps(WAIT_FOR_GO)
RUNNING = dict.fromkeys(NAMES, "running")


@pytest.fixture
def writers(fault_container: Container) -> Iterator[Writers]:
    with Writers(fault_container) as writers:
        yield writers


def new_daemon(container: Container, old: int) -> None:
    """Until another process than `old` answers on the bus."""
    wait_for(lambda: pid_of(container, DAEMON) not in (0, old) and is_up(container))


def end_daemon(container: Container, way: str) -> None:
    """By systemctl or by a signal; systemd may need a second try to start it."""
    old = pid_of(container, DAEMON)
    if way == "restart":
        container.run("systemctl", "restart", DAEMON, check=False)
    else:
        kill(container, DAEMON)
    new_daemon(container, old)


def assert_signals(
    container: Container,
    heard: dict[str, list[int]],
    written: dict[str, int],
    *,
    may_repeat: bool,
) -> None:
    """Every event from the first that was heard was signalled, or is counted.

    A killed daemon cannot say what it had sent last: the next one may repeat that.
    """
    for name in NAMES:
        skipped = int(get(container, name, "SkippedSignals"))
        sequence = sorted(set(heard[name]))
        assert sequence[-1] == written[name]
        assert written[name] - sequence[0] + 1 == len(sequence) + skipped
        if not may_repeat:
            assert heard[name] == sequence, f"{name}: out of order, or twice"


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_the_daemon_ends_again_and_again(writers: Writers, way: str) -> None:
    container = writers.container
    with monitor(container) as signals:
        for _ in range(TIMES):
            before = writers.counts()
            pass_a_moment()
            end_daemon(container, way)
            after = writers.counts()
            assert list_vms(container) == RUNNING
            assert all(after[name] >= before[name] for name in NAMES)
        writers.wait_for_marks()
        written = writers.close_account()
        wait_for(lambda: signals.heard()["w2"][-1] == written["w2"])
        assert_signals(container, signals.heard(), written, may_repeat=way == "kill")


def test_an_upgrade_touches_no_guest(writers: Writers, deb: Path) -> None:
    container = writers.container
    pids = [pid_of(container, unit_of(name)) for name in NAMES]
    before, old = writers.counts(), pid_of(container, DAEMON)

    with monitor(container) as signals:
        container.run("apt-get", "install", "--reinstall", "--yes", f"/root/{deb.name}")

        new_daemon(container, old)
        after = writers.counts()
        assert [pid_of(container, unit_of(name)) for name in NAMES] == pids
        assert list_vms(container) == RUNNING
        assert all(after[name] >= before[name] for name in NAMES)
        writers.wait_for_marks()
        written = writers.close_account()
        wait_for(lambda: signals.heard()["w2"][-1] == written["w2"])
        assert_signals(container, signals.heard(), written, may_repeat=False)


def test_systemd_ends_a_daemon_that_hangs(writers: Writers) -> None:
    container = writers.container
    with drop_in(container, DAEMON, "WatchdogSec=1s", "TimeoutAbortSec=1s"):
        container.run("systemctl", "restart", DAEMON)
        old = pid_of(container, DAEMON)
        kill(container, DAEMON, "STOP")
        new_daemon(container, old)
        assert list_vms(container) == RUNNING
        writers.wait_for_marks()
    writers.close_account()


def test_a_start_goes_on_while_systemd_executes_itself_anew(writers: Writers) -> None:
    """As an upgrade of systemd or libc has it. The end of the job comes from another bus name."""
    container = writers.container
    start = ["busctl", f"--timeout={TIMEOUT}", "call", *MANAGER, "StartVM", "sa{sv}", "slow", "0"]
    with (
        drop_in(container, unit_of("slow"), WAIT),
        subprocess.Popen(
            container.command(*start), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as starting,
    ):
        wait_for(lambda: unit_state(container, "slow") == "activating")
        container.run("systemctl", "daemon-reexec")
        container.run("touch", GO)
        said, _ = starting.communicate(timeout=TIMEOUT)

    assert said == 'o "/org/chdebugd1/vm/slow"\n'
    assert list_vms(container).items() >= RUNNING.items()
    writers.wait_for_marks()
    writers.close_account()


def unit_state(container: Container, name: str) -> str:
    show = ["systemctl", "show", "--property=ActiveState", "--value", unit_of(name)]
    return container.run(*show).stdout.strip()
