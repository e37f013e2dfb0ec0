"""The host has no more memory, descriptors or processes for a VM, or no KVM: a named error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.container import KVM, Container

from tests.system.faults import (
    DAEMON,
    NAMES,
    WRITER,
    Writers,
    drop_in,
    is_up,
    list_vms,
    pid_of,
    unit_of,
)

pytestmark = pytest.mark.kvm
PIDS = Path("/sys/fs/cgroup/pids")  # of version 1
TEMPLATE = "chdebugd-vm@.service"
START = ("org.chdebugd1", "/org/chdebugd1", "org.chdebugd1.Manager", "StartVM", "sa{sv}")


@pytest.fixture
def writers(fault_container: Container) -> Iterator[Writers]:
    with Writers(fault_container) as writers:
        yield writers


def refusal(container: Container, *options: str) -> str:
    """What StartVM says; nothing of the VM may be left."""
    count = str(len(options) // 3)
    done = container.busctl("call", *START, "late", count, *options, check=False)
    assert done.returncode != 0, "the VM started"
    assert list_vms(container) == dict.fromkeys(NAMES, "running")
    assert pid_of(container, unit_of("late")) == 0
    return done.stderr


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("LimitAS=300M", "cannot map 1073741824 bytes of guest memory; give the VM less"),
        ("LimitNOFILE=7", "chdebugd-vm@late.service did not start"),
        ("LimitNOFILE=16", "Too many open files"),
        ("LimitNPROC=1", "The host has no thread left for vCPU 0"),
    ],
)
def test_what_the_host_lacks_is_named(writers: Writers, setting: str, says: str) -> None:
    container = writers.container
    with drop_in(container, TEMPLATE, setting):
        assert says in refusal(container, "memory", "t", str(1 << 30), "cpus", "u", "2")
    writers.wait_for_marks()
    container.start_vm("later")
    assert list_vms(container)["later"] in ("running", "stopped")
    writers.close_account()


def test_a_daemon_without_descriptors_says_so(writers: Writers) -> None:
    container = writers.container
    pid = pid_of(container, DAEMON)
    taken = {int(fd) for fd in container.run("ls", f"/proc/{pid}/fd").stdout.split()}
    free = next(fd for fd in range(len(taken) + 1) if fd not in taken)
    limit = ["prlimit", f"--pid={pid}"]
    before = container.run(*limit, "--nofile", "--noheadings", "--output=SOFT").stdout.strip()
    container.run(*limit, f"--nofile={free}:")
    assert "Too many open files" in refusal(container, "firmware", "s", WRITER)
    container.run(*limit, f"--nofile={before}:")
    writers.wait_for_marks()
    container.start_vm("later")
    writers.close_account()


@contextlib.contextmanager
def few_processes(container: Container, count: int) -> Iterator[None]:
    """What systemd starts may have so many processes and threads.

    By TasksMax= where the container has the controller `pids`. It has none where the host keeps
    it in a hierarchy of version 1: a controller is in one hierarchy only, and the container's
    systemd has that of version 2 (Documentation/admin-guide/cgroup-v2.rst). There the container's
    systemd itself goes into a group of ours, and with it what it forks.
    """
    if "pids" in container.get("/sys/fs/cgroup/cgroup.controllers").decode().split():
        with drop_in(container, TEMPLATE, f"TasksMax={count}"):
            yield
        return
    [line] = [each for each in cgroups_of(container.leader) if ":pids:" in each]
    home = PIDS / line.split(":", 2)[2].lstrip("/")
    group = PIDS / f"chdebugd-container-{os.getpid()}-few"
    group.mkdir()
    (group / "pids.max").write_text(str(count + 1))
    (group / "cgroup.procs").write_text(str(container.leader))
    try:
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(pid)
        group.rmdir()


def cgroups_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cgroup").read_text().splitlines()


@pytest.mark.parametrize(
    ("count", "says"),
    [
        # systemd itself needs two, for a moment: one of them makes the user namespace.
        (1, "chdebugd-vm@late.service did not start"),
        (2, "The host has no thread left for vCPU 1"),
    ],
)
def test_a_control_group_without_room_for_processes_is_named(
    writers: Writers, count: int, says: str
) -> None:
    container = writers.container
    with few_processes(container, count):
        assert says in refusal(container, "cpus", "u", "2")
    writers.wait_for_marks()
    container.start_vm("later")
    assert list_vms(container)["later"] in ("running", "stopped")
    writers.close_account()


@contextlib.contextmanager
def kvm_instead(container: Container, *words: str) -> Iterator[None]:
    """Something else in the place of /dev/kvm, or nothing."""
    container.run("rm", "/dev/kvm")
    if words:
        container.run(*words)
    try:
        yield
    finally:
        container.run("rm", "-f", "/dev/kvm")
        container.run("mknod", "--mode=0660", "/dev/kvm", "c", *map(str, KVM))
        container.run("chgrp", "kvm", "/dev/kvm")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Cannot open /dev/kvm: No such file or directory; load the module"),
        (
            ["mknod", "--mode=0600", "/dev/kvm", "c", *map(str, KVM)],
            "Cannot open /dev/kvm: Permission denied; the VM process must be in the group",
        ),
        (
            ["mknod", "--mode=0666", "/dev/kvm", "c", "1", "3"],
            "/dev/kvm is not a KVM device; load the module",
        ),
    ],
    ids=["missing", "no permission", "another API"],
)
def test_without_kvm_the_daemon_says_what_to_do(
    writers: Writers, words: list[str], says: str
) -> None:
    container = writers.container
    with kvm_instead(container, *words):
        assert says in refusal(container)
        assert is_up(container)
        writers.wait_for_marks()
    writers.close_account()
