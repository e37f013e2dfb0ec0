"""Who may open no more files goes on once it may: the daemon, and a VM process."""

from __future__ import annotations

import resource

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import (
    MANAGER,
    VM,
    Client,
    Daemon,
    file_with,
    restarted,
    story,
    vm_pids,
)
from tests.guests import metronome, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
NAMES = ["one", "two", "three"]


@story
async def test_vms_that_it_cannot_connect_to_are_met_later(daemon: Daemon, client: Client) -> None:
    await client.call(*MANAGER, "ListVMs")
    alone = daemon.fds
    image = file_with(daemon.runtime_dir.parent, rom(metronome(20)))
    paths = [await client.start_vm(name, firmware=Variant("s", str(image))) for name in NAMES]
    for path in paths:
        await client.wait_for(lambda path=path: len(client.events(path)) > 1)  # type: ignore[misc]

    daemon.wrapper = ["prlimit", f"--nofile={alone + 2}:"]  # the soft limit
    await restarted(daemon, client)
    vms = await client.call(*MANAGER, "ListVMs")
    assert sorted(vm[:2] for vm in vms) == sorted([name, "running"] for name in NAMES)
    assert daemon.process is not None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, limits)

    for path in paths:
        heard = len(client.events(path))
        await client.wait_for(lambda path=path, n=heard: len(client.events(path)) > n + 20)  # type: ignore[misc]
        await client.call(path, VM, "Pause")
        assert await client.get(path, "State") == "paused"
    assert not daemon.journal.entries(MESSAGE_ID=MessageId.VM_FAILED.value)
    assert not daemon.journal.entries(MESSAGE_ID=MessageId.RECOVERED.value)


@story
async def test_a_vm_process_that_cannot_let_a_daemon_in_runs_on(
    daemon: Daemon, client: Client
) -> None:
    image = file_with(daemon.runtime_dir.parent, rom(metronome(20)))
    path = await client.start_vm("one", firmware=Variant("s", str(image)))
    await client.wait_for(lambda: len(client.events(path)) > 1)
    pid = vm_pids(daemon.runtime_dir)["one"]
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))  # it has those

    await restarted(daemon, client)
    marks = len(daemon.journal.entries(MESSAGE_ID=MessageId.EVENT.value))
    await client.wait_for(
        lambda: len(daemon.journal.entries(MESSAGE_ID=MessageId.EVENT.value)) > marks + 20
    )
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

    heard = len(client.events(path))
    await client.wait_for(lambda: len(client.events(path)) > heard + 20)
    assert vm_pids(daemon.runtime_dir)["one"] == pid
    assert not daemon.journal.entries(MESSAGE_ID=MessageId.VM_FAILED.value)
