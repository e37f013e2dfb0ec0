"""Whose disk it is: one VM's while it runs, and nobody's after that."""

from __future__ import annotations

import os
import signal

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import VM, Client, Daemon, ErrorReply, file_with, story, vm_pids
from tests.guests import FOREVER, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]


async def start(daemon: Daemon, client: Client, name: str) -> str:
    directory = daemon.runtime_dir.parent
    disk = directory / "disk"
    if not disk.exists():
        disk.write_bytes(bytes(1 << 20))
    image = file_with(directory, rom(mark(1) + FOREVER))
    disks = Variant("aa{sv}", [{"path": Variant("s", str(disk))}])
    return await client.start_vm(name, firmware=Variant("s", str(image)), disks=disks)


@story
async def test_a_running_vm_keeps_its_disk_to_itself(daemon: Daemon, client: Client) -> None:
    await start(daemon, client, "first")

    with pytest.raises(ErrorReply, match="is in use, by another VM or tool"):
        await start(daemon, client, "second")


@story
async def test_an_ended_vm_gives_its_disk_back(daemon: Daemon, client: Client) -> None:
    first = await start(daemon, client, "first")
    await client.call(first, VM, "Kill")
    second = await start(daemon, client, "second")
    await client.call(second, VM, "Kill")

    await client.call(first, VM, "Start")

    assert await client.get(first, "State") == "running"


@story
async def test_a_vm_whose_process_died_gives_its_disk_back(daemon: Daemon, client: Client) -> None:
    first = await start(daemon, client, "first")
    os.kill(vm_pids(daemon.runtime_dir)["first"], signal.SIGKILL)
    await client.wait_state(first, "failed")

    await client.call(first, VM, "Start")

    assert await client.get(first, "State") == "running"


@story
async def test_a_vm_whose_process_died_leaves_its_disk_to_others(
    daemon: Daemon, client: Client
) -> None:
    first = await start(daemon, client, "first")
    os.kill(vm_pids(daemon.runtime_dir)["first"], signal.SIGKILL)
    await client.wait_state(first, "failed")

    second = await start(daemon, client, "second")

    assert await client.get(second, "State") == "running"
    with pytest.raises(ErrorReply, match="is in use, by another VM or tool"):
        await client.call(first, VM, "Start")
