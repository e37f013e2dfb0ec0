"""Who may open no more files goes on once it may: the daemon, and a VM process."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import (
    MANAGER,
    VM,
    Client,
    Daemon,
    ErrorReply,
    file_with,
    restarted,
    story,
    vm_pids,
)
from tests.guests import FOREVER, burst, metronome, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
NAMES = ["one", "two", "three"]
COUNT = 1000


@pytest.mark.parametrize("room", range(2, 7))
def test_vms_that_it_cannot_connect_to_are_met_later(daemon: Daemon, room: int) -> None:
    """Each needs five descriptors: another one lacks each time."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        await met_later(daemon, client, room)

    told(daemon)


async def met_later(daemon: Daemon, client: Client, room: int) -> None:
    await client.call(*MANAGER, "ListVMs")
    alone = daemon.fds
    image = file_with(daemon.runtime_dir.parent, rom(metronome(20)))
    paths = [await client.start_vm(name, firmware=Variant("s", str(image))) for name in NAMES]
    for path in paths:
        await client.wait_for(lambda path=path: len(client.events(path)) > 1)  # type: ignore[misc]

    daemon.wrapper = ["prlimit", f"--nofile={alone + room}:"]  # the soft limit
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


@story
async def test_vms_that_die_meanwhile_are_taken_over_later(daemon: Daemon, client: Client) -> None:
    """Their deaths are told at once; what they left is written as soon as it can be."""
    daemon.journal.stop()
    image = file_with(daemon.runtime_dir.parent, rom(burst(COUNT) + FOREVER))
    options = {name: {"log_file": Variant("s", f"{name}.log")} for name in NAMES}
    paths = {
        name: await client.start_vm(name, firmware=Variant("s", str(image)), **options[name])
        for name in NAMES
    }
    for path in paths.values():
        await client.wait_for(lambda path=path: len(client.events(path)) == COUNT)  # type: ignore[misc]
    boots = {name: await client.get(path, "BootID") for name, path in paths.items()}
    assert daemon.process is not None
    open_files = daemon.fds
    soft, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (3, hard))  # it has those

    for pid in vm_pids(daemon.runtime_dir).values():
        os.kill(pid, signal.SIGKILL)
    for path in paths.values():
        await client.wait_state(path, "failed")
    with pytest.raises(ErrorReply, match="still writes its marks"):
        await client.call(paths["one"], VM, "Start")
    await client.call(paths["two"], VM, "Remove")
    daemon.journal.go()
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (soft, hard))

    for name, boot in boots.items():
        await client.wait_for(lambda boot=boot: len(ends(daemon, boot)) == 1)  # type: ignore[misc]
        marks = daemon.journal.entries(MESSAGE_ID=MessageId.EVENT.value, VM_BOOT=boot)
        assert sorted({int(entry["SEQ"]) for entry in marks}) == list(range(1, COUNT + 1))
        lines = (daemon.log_dir / f"{name}.log").read_text().splitlines()
        assert len(lines) == len(set(lines)) == COUNT
    await client.call(paths["one"], VM, "Start")
    await client.call(paths["one"], VM, "Remove")
    await client.call(paths["three"], VM, "Remove")
    await client.wait_for(lambda: daemon.fds < open_files)


def ends(daemon: Daemon, boot: str) -> list[dict[str, str]]:
    return daemon.journal.entries(MESSAGE_ID=MessageId.VM_FAILED.value, VM_BOOT=boot)
