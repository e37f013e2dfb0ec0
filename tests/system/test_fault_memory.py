"""The kernel's OOM killer ends a VM process: told as what it is, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.container import Container

from chdebugd.trace.journal import MessageId
from tests.guests import hungry
from tests.system.conftest import get, guest, wait_for, wait_state
from tests.system.faults import (
    Writers,
    assert_account,
    assert_log,
    entries,
    pid_of,
    unit_of,
)

pytestmark = pytest.mark.kvm
MEMORY = Path("/sys/fs/cgroup/memory")  # of version 1
LIMIT = 8 << 20  # bytes
VICTIM = "hungry"
EVENTS = b"low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n"  # memory.events of a group with one victim


@pytest.fixture
def writers(fault_container: Container) -> Iterator[Writers]:
    with Writers(fault_container) as writers:
        yield writers


@contextlib.contextmanager
def hardly_any_memory(container: Container, unit: str) -> Iterator[None]:
    """For the processes of a unit, from now on.

    By MemoryMax= where the container has the controller `memory`; else in a group of ours, of
    version 1, as in test_fault_limits.py. systemd learns from memory.events who was killed, which
    only version 2 has: there it reads one that says what the kernel of such a host would.
    """
    if "memory" in container.get("/sys/fs/cgroup/cgroup.controllers").decode().split():
        limits = [f"MemoryMax={LIMIT}", "MemorySwapMax=0"]
        container.run("systemctl", "set-property", "--runtime", unit, *limits)
        yield
        return
    with memory_events(container, unit), memory_group() as group:
        enter = ["nsenter", f"--target={container.leader}", "--pid"]
        write = f"echo {pid_of(container, unit)} > {group}/cgroup.procs"
        subprocess.run([*enter, "sh", "-c", write], check=True)
        yield


@contextlib.contextmanager
def memory_group() -> Iterator[Path]:
    group = MEMORY / f"chdebugd-container-{os.getpid()}-memory"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        with contextlib.suppress(FileNotFoundError):  # where Linux does not count swap
            (group / "memory.memsw.limit_in_bytes").write_text(str(LIMIT))
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


@contextlib.contextmanager
def memory_events(container: Container, unit: str) -> Iterator[None]:
    show = ["systemctl", "show", "--property=ControlGroup", "--value", unit]
    place = "/sys/fs/cgroup" + container.run(*show).stdout.strip()
    container.put("/run/events/memory.events", EVENTS)
    container.run("mount", "--bind", "/run/events", place)
    try:
        yield
    finally:
        container.run("umount", place)
        container.run("rm", "-r", "/run/events")


def test_a_process_that_the_oom_killer_ends_is_told_as_such(writers: Writers) -> None:
    container = writers.container
    options = [("memory", "t", str(1 << 30)), ("log-file", "s", f"{VICTIM}.log")]
    container.start_vm(VICTIM, guest(container, VICTIM, hungry(exits=64)), *options)
    with hardly_any_memory(container, unit_of(VICTIM)):
        wait_state(container, VICTIM, "failed")
        wait_for(lambda: bool(entries(container, MessageId.VM_FAILED, VICTIM)))

    assert get(container, VICTIM, "Result") == "oom-kill"
    [failed] = entries(container, MessageId.VM_FAILED, VICTIM)
    assert failed["RESULT"] == "oom-kill"
    assert "The kernel's OOM killer ended the VM process" in failed["MESSAGE"]
    written = int(get(container, VICTIM, "EventCount"))
    assert written > 0
    assert_account(container, VICTIM, written)
    assert_log(container, VICTIM, written)
    writers.wait_for_marks()
    writers.close_account()
    container.run("systemctl", "reset-failed", unit_of(VICTIM))  # or the next victim is no news
