"""What a dead VM process left is taken over once, whatever dies or is asked for meanwhile.

journald does not read, so that all of it is still to be written.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import (
    MANAGER,
    TIMEOUT,
    VM,
    Client,
    Daemon,
    firmware,
    restarted,
    story,
    vm_pids,
)
from tests.dbus.fd_store import FdStore
from tests.guests import FOREVER, SHUTDOWN, burst

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
COUNT = 2000
Told = Callable[[Daemon, Client], Coroutine[Any, Any, None]]


@pytest.fixture
def kept(daemon: Daemon, fd_store: FdStore) -> FdStore:
    """systemd keeps the rings of the daemon, once that is started anew."""
    daemon.environment["NOTIFY_SOCKET"] = str(fd_store.path)
    return fd_store


def marks(daemon: Daemon, boot: str) -> list[int]:
    """The numbers of a boot's marks, as they came."""
    entries = daemon.journal.entries(MESSAGE_ID=MessageId.EVENT.value, VM_BOOT=boot)
    return [int(entry["SEQ"]) for entry in entries]


def ends(daemon: Daemon, boot: str) -> list[tuple[str, str]]:
    """What is told of a boot's end: kind and result."""
    kinds = (MessageId.VM_STOPPED, MessageId.VM_FAILED)
    return [
        (kind.name, entry["RESULT"])
        for kind in kinds
        for entry in daemon.journal.entries(MESSAGE_ID=kind.value, VM_BOOT=boot)
    ]


async def written(client: Client, path: str) -> str:
    """All marks of a boot are made, and signalled; the boot."""
    await client.wait_for(lambda: len(client.events(path)) == COUNT)
    boot: str = await client.get(path, "BootID")
    return boot


async def killed(daemon: Daemon, client: Client, path: str, name: str) -> None:
    os.kill(vm_pids(daemon.runtime_dir)[name], signal.SIGKILL)
    await client.wait_for(lambda: name not in vm_pids(daemon.runtime_dir))


async def next_daemon(daemon: Daemon, client: Client, kept: FdStore) -> None:
    """It gets back what the one that is killed now had stored."""
    daemon.stop(signal.SIGKILL)
    kept.hand_back(daemon)
    daemon.start()
    daemon.journal.go()


def test_the_next_daemon_tells_an_end_that_the_last_one_had_no_time_to_tell(
    daemon: Daemon, kept: FdStore
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        await restarted(daemon, client)
        daemon.journal.stop()
        path = await client.start_vm("late", firmware=firmware(daemon, burst(COUNT) + FOREVER))
        boot = await written(client, path)
        await killed(daemon, client, path, "late")
        await client.wait_state(path, "failed")

        await next_daemon(daemon, client, kept)

        await client.wait_for(lambda: bool(ends(daemon, boot)))
        assert ends(daemon, boot) == [("VM_FAILED", "process-died")]
        assert sorted(set(marks(daemon, boot))) == list(range(1, COUNT + 1))
        await restarted(daemon, client)
        assert await client.get(path, "State") == "failed"
        await client.call(path, VM, "Remove")
        assert ends(daemon, boot) == [("VM_FAILED", "process-died")]

    told(daemon)


@story
async def test_the_end_is_told_of_a_process_that_was_killed_before_it_could(
    daemon: Daemon, client: Client
) -> None:
    """It had told the daemon, and waited for journald."""
    daemon.journal.stop()
    path = await client.start_vm("ended", firmware=firmware(daemon, burst(COUNT) + SHUTDOWN))
    boot = await written(client, path)
    await client.wait_state(path, "stopped")
    await killed(daemon, client, path, "ended")

    daemon.journal.go()

    await client.wait_for(lambda: bool(ends(daemon, boot)))
    assert ends(daemon, boot) == [("VM_STOPPED", "shutdown")]
    assert marks(daemon, boot) == list(range(1, COUNT + 1))
    assert await client.get(path, "Result") == "shutdown"


@story
async def test_a_daemon_that_stops_writes_what_is_left_first(
    daemon: Daemon, client: Client
) -> None:
    """Where systemd stops it, and does not start it anew, nobody keeps the ring."""
    daemon.journal.stop()
    path = await client.start_vm("last", firmware=firmware(daemon, burst(COUNT) + FOREVER))
    boot = await written(client, path)
    await killed(daemon, client, path, "last")
    await client.wait_state(path, "failed")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)

    daemon.journal.go()

    assert await asyncio.to_thread(daemon.process.wait, TIMEOUT) == 0
    await client.wait_for(lambda: bool(ends(daemon, boot)))
    assert ends(daemon, boot) == [("VM_FAILED", "process-died")]
    assert sorted(set(marks(daemon, boot))) == list(range(1, COUNT + 1))


def test_what_a_removed_vm_left_outlives_its_process_and_the_daemon(
    daemon: Daemon, kept: FdStore
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        await restarted(daemon, client)
        daemon.journal.stop()
        path = await client.start_vm("gone", firmware=firmware(daemon, burst(COUNT) + FOREVER))
        boot = await written(client, path)
        await client.call(path, VM, "Remove")
        await killed(daemon, client, path, "gone")

        await next_daemon(daemon, client, kept)

        await client.wait_for(lambda: bool(ends(daemon, boot)))
        assert sorted(set(marks(daemon, boot))) == list(range(1, COUNT + 1))
        assert await client.call(*MANAGER, "ListVMs") == []
        await client.wait_for(lambda: kept.look() == {})

    told(daemon)


def test_a_former_boot_outlives_the_daemon_though_its_vm_runs_again(
    daemon: Daemon, kept: FdStore
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        await restarted(daemon, client)
        daemon.journal.stop()
        path = await client.start_vm("again", firmware=firmware(daemon, burst(COUNT) + FOREVER))
        former = await written(client, path)
        await killed(daemon, client, path, "again")
        await client.wait_state(path, "failed")
        await client.call(path, VM, "Start")
        boot = await client.get(path, "BootID")
        await client.wait_for(lambda: len(kept.look()) == 2)

        await next_daemon(daemon, client, kept)

        await client.wait_for(lambda: bool(ends(daemon, former)))
        assert ends(daemon, former) == [("VM_FAILED", "process-died")]
        assert sorted(set(marks(daemon, former))) == list(range(1, COUNT + 1))
        await client.wait_for(lambda: len(marks(daemon, boot)) == COUNT)
        assert await client.get(path, "State") == "running"
        await client.wait_for(lambda: list(kept.look()) == ["ring-again"])

    told(daemon)
