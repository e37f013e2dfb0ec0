"""A full disk, a full /run, a log that is moved or removed: no guest notices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from container.container import Container

from chdebugd.trace.journal import MessageId
from tests.system.conftest import wait_for
from tests.system.faults import (
    DAEMON,
    HERTZ,
    NAMES,
    WRITER,
    Writers,
    entries,
    is_up,
    journalled,
    kill,
    list_vms,
    log_codes,
    pass_a_moment,
    pid_of,
)

pytestmark = pytest.mark.kvm
LOGS = "/var/log/chdebugd"
RUNNING = dict.fromkeys(NAMES, "running")


@pytest.fixture
def writers(fault_container: Container) -> Iterator[Writers]:
    with Writers(fault_container) as writers:
        yield writers


@contextlib.contextmanager
def filled(container: Container, directory: str) -> Iterator[None]:
    """Not one byte is free in the file system of `directory`."""
    container.run("sh", "-c", f"cat /dev/zero > {directory}/filler", check=False)
    try:
        yield
    finally:
        container.run("rm", f"{directory}/filler")


@pytest.fixture
def _small_log_disk(fault_container: Container) -> Iterator[None]:
    """The log directory on a file system of its own, which is small."""
    owner = "uid=chdebugd,gid=chdebugd,mode=750"
    fault_container.run("mount", "-t", "tmpfs", "-o", f"size=2M,{owner}", "logs", LOGS)
    fault_container.run("systemctl", "restart", DAEMON)
    yield
    fault_container.run("umount", "--lazy", LOGS)
    fault_container.run("systemctl", "restart", DAEMON)


@pytest.mark.usefixtures("_small_log_disk")
def test_a_full_log_disk_costs_lines_which_are_counted(fault_container: Container) -> None:
    container = fault_container
    with Writers(container) as writers:
        with filled(container, LOGS):
            writers.wait_for_marks(200)
            pass_a_moment()
            for name in NAMES:
                wait_for(lambda name=name: bool(troubles(container, name)))  # type: ignore[misc]
        writers.wait_for_marks()
        written = writers.close_account(log=False)
        for name in NAMES:
            full, room = troubles(container, name)
            assert "No space left on device" in full["MESSAGE"]
            codes = log_codes(container, f"{LOGS}/{name}.log")
            lost = int(room["LOST_LINES"])
            assert lost > 0
            assert len(codes) + lost == written[name]
            assert codes[-1] == (written[name] - 1) & 0xFF


def troubles(container: Container, name: str) -> list[dict[str, str]]:
    return entries(container, MessageId.LOG_FILE_ERROR, name)


def test_a_full_run_harms_no_guest(writers: Writers) -> None:
    """The daemon restarts, dies and starts a VM while it can write nothing there."""
    container = writers.container
    size = container.run("findmnt", "--noheadings", "--output=SIZE", "--bytes", "/run").stdout
    container.run("mount", "-o", "remount,size=16M", "/run")
    with filled(container, "/run"):
        for end in ("TERM", "KILL"):
            old = pid_of(container, DAEMON)
            kill(container, DAEMON, end)
            wait_for(lambda: pid_of(container, DAEMON) == 0 or is_up(container))
            container.run("systemctl", "start", DAEMON, check=False)
            wait_for(lambda old=old: pid_of(container, DAEMON) not in (0, old))  # type: ignore[misc]
            wait_for(lambda: is_up(container))
            assert list_vms(container) == RUNNING
        container.start_vm("amid", ("firmware", "s", WRITER))
        wait_for(lambda: len(journalled(container, "amid")) > HERTZ // 4)
        writers.wait_for_marks()
    container.run("mount", "-o", f"remount,size={size.strip()}", "/run")
    container.start_vm("later")
    writers.close_account()


def test_a_removed_log_directory_harms_no_guest(writers: Writers) -> None:
    container = writers.container
    container.run("rm", "-r", LOGS)
    container.run("systemctl", "reload", DAEMON)
    writers.wait_for_marks()
    for name in NAMES:
        wait_for(lambda name=name: bool(kept_its_old_log(container, name)))  # type: ignore[misc]

    refused = container.busctl(
        "call", "org.chdebugd1", "/org/chdebugd1", "org.chdebugd1.Manager",
        "StartVM", "sa{sv}", "late", "1", "log-file", "s", "late.log", check=False,
    )  # fmt: skip

    assert refused.returncode != 0
    assert "Cannot open log file" in refused.stderr or "may not write" in refused.stderr
    container.run("systemctl", "restart", DAEMON)  # which makes the directory anew
    container.start_vm("later", ("log-file", "s", "later.log"))
    assert list_vms(container).items() >= RUNNING.items()
    container.run("systemctl", "reload", DAEMON)
    writers.wait_for_marks()
    written = writers.close_account(log=False)
    for name in NAMES:
        [_] = kept_its_old_log(container, name)
        codes = log_codes(container, f"{LOGS}/{name}.log")
        assert codes  # and from the first one on all
        assert codes == [n & 0xFF for n in range(written[name] - len(codes), written[name])]


def kept_its_old_log(container: Container, name: str) -> list[str]:
    """What the daemon told of that in this life of the VM."""
    started = entries(container, MessageId.VM_STARTED, name)[0]["__REALTIME_TIMESTAMP"]
    since = f"--since=@{int(started) / 1e6:.6f}"
    grep = f"--grep=VM '{name}' keeps its old log-file"
    words = ["journalctl", "--quiet", "--output=cat", "-t", "chdebugd", since, grep]
    return container.run(*words, check=False).stdout.splitlines()


def test_a_log_that_is_moved_away_loses_no_line(writers: Writers) -> None:
    container = writers.container
    for turn in range(3):
        for name in NAMES:
            container.run("mv", f"{LOGS}/{name}.log", f"{LOGS}/{name}.log.{turn}")
        pass_a_moment()
        container.run("systemctl", "reload", DAEMON)
        for name in NAMES:
            wait_for(lambda name=name: exists(container, f"{LOGS}/{name}.log"))  # type: ignore[misc]
        writers.wait_for_marks()
    written = writers.close_account(log=False)
    for name in NAMES:
        parts = [f"{LOGS}/{name}.log.{turn}" for turn in range(3)] + [f"{LOGS}/{name}.log"]
        codes = [code for part in parts for code in log_codes(container, part)]
        assert codes == [n & 0xFF for n in range(written[name])]


def exists(container: Container, path: str) -> bool:
    return container.run("test", "-e", path, check=False).returncode == 0


def test_a_log_that_is_copied_and_cut_has_no_holes(writers: Writers) -> None:
    """logrotate's copytruncate loses what comes between copy and cut, and nothing else."""
    container = writers.container
    for name in NAMES:
        log = f"{LOGS}/{name}.log"
        container.run("sh", "-c", f"cp {log} {log}.1; : > {log}")
    writers.wait_for_marks()
    written = writers.close_account(log=False)
    for name in NAMES:
        before = log_codes(container, f"{LOGS}/{name}.log.1")
        after = log_codes(container, f"{LOGS}/{name}.log")
        assert before == [n & 0xFF for n in range(len(before))]
        assert after == [n & 0xFF for n in range(written[name] - len(after), written[name])]
