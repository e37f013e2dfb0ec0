"""Methods in the wrong state are refused by name and change nothing; properties tell the truth."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import (
    PROPERTIES,
    VM,
    Client,
    Daemon,
    ErrorReply,
    firmware,
    story,
    vm_pids,
)
from tests.guests import SHUTDOWN, SLEEP, burst, mark

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

COUNT = 70_000  # events; more than the ring holds


@pytest.mark.parametrize(
    ("state", "before", "refused"),
    [
        ("running", [], ["Start", "Resume"]),
        ("paused", ["Pause"], ["Start", "Pause"]),
        ("stopped", ["Kill"], ["Stop", "Pause", "Resume", "Reset"]),
    ],
)
def test_a_method_in_the_wrong_state(
    shared_daemon: Daemon, state: str, before: list[str], refused: list[str]
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("s", firmware=firmware(daemon, mark(1) + SLEEP))
        for member in before:
            await client.call(path, VM, member)
        for member in refused:
            arguments: list[Any] = ["t", 0] if member == "Stop" else []
            with pytest.raises(ErrorReply, match=r"Error\.WrongState: VM 's' is"):
                await client.call(path, VM, member, *arguments)
            assert await client.get(path, "State") == state
        await client.call(path, VM, "Remove")

    told(shared_daemon)


def test_kill_of_an_ended_vm_is_no_error(shared_daemon: Daemon) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("k", firmware=firmware(daemon, mark(1) + SHUTDOWN))
        await client.wait_state(path, "stopped")
        await client.call(path, VM, "Kill")
        assert await client.get(path, "Result") == "shutdown"
        await client.call(path, VM, "Remove")

    told(shared_daemon)


def test_a_vm_can_be_removed_once(shared_daemon: Daemon) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("r", firmware=firmware(daemon, mark(1) + SLEEP))

        removals = (client.call(path, VM, "Remove") for _ in range(3))
        answers = await asyncio.gather(*removals, return_exceptions=True)

        assert answers.count(None) == 1
        names = {each.name.split(".")[-1] for each in answers if isinstance(each, ErrorReply)}
        assert names <= {"NoSuchVM", "UnknownObject"}
        with pytest.raises(ErrorReply, match=r"UnknownObject"):
            await client.call(path, VM, "Remove")

    told(shared_daemon)


def test_a_vm_that_ends_by_itself_may_be_stopped_at_the_same_time(shared_daemon: Daemon) -> None:
    """The request meets a VM process that has ended its VM and still writes marks."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        daemon.journal.stop()
        path = await client.start_vm("e", firmware=firmware(daemon, burst(2000) + SHUTDOWN))
        await client.wait_state(path, "stopped")
        with pytest.raises(ErrorReply, match=r"Error\.WrongState"):
            await client.call(path, VM, "Stop", "t", 0)
        daemon.journal.go()
        await client.wait_for(lambda: not vm_pids(daemon.runtime_dir))
        assert await client.get(path, "Result") == "shutdown"
        await client.call(path, VM, "Remove")

    told(shared_daemon)


# What the properties say and what was signalled of them


class Told:
    """The values that listeners know: those of InterfacesAdded, and all changes since."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path

    def values(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for message in self._client.signals:
            if message.member == "InterfacesAdded" and message.body[0] == self._path:
                known = _plain(message.body[1][VM])
            elif message.member == "PropertiesChanged" and message.path == self._path:
                known |= _plain(message.body[1])
        return known

    async def holds(self) -> bool:
        """Whether what was told is what is."""
        now = _plain(await self._client.call(self._path, PROPERTIES, "GetAll", "s", VM))
        return self.values() == now


def _plain(values: dict[str, Variant]) -> dict[str, Any]:
    return {name: variant.value for name, variant in values.items() if name != "Options"}


@story
async def test_every_change_of_a_property_is_signalled(daemon: Daemon, client: Client) -> None:
    path = "/org/chdebugd1/vm/p"
    told = Told(client, path)
    code = firmware(daemon, mark(1, 0x41) + SLEEP)
    assert await client.start_vm("p", firmware=code, serial=Variant("s", "pty")) == path

    await client.wait_for(lambda: told.values().get("EventCount") == 2)
    await client.wait_for(told.holds)
    assert told.values()["LastComponent"] == "Kernel"
    first = told.values()
    for member in ("Pause", "Resume", "Reset"):
        await client.call(path, VM, member)
        await client.wait_for(told.holds)
    await client.wait_for(lambda: told.values()["EventCount"] == 4)
    await client.wait_for(told.holds)
    second = told.values()
    for name in ("BootID", "BootCount", "StartTimestampMonotonic"):
        assert second[name] != first[name]
    await client.call(path, VM, "Stop", "t", 0)
    await client.wait_for(told.holds)
    assert told.values()["State"] == "stopped"
    await client.call(path, VM, "Start")
    await client.wait_for(told.holds)
    await client.wait_for(lambda: told.values()["BootCount"] == 3)
    os.kill(vm_pids(daemon.runtime_dir)["p"], signal.SIGKILL)
    await client.wait_state(path, "failed")
    await client.wait_for(told.holds)
    assert told.values()["Result"] == "process-died"


@story
async def test_drops_are_signalled_while_they_last(daemon: Daemon, client: Client) -> None:
    """No event comes from a guest whose events are dropped, so nothing else wakes the daemon."""
    known = Told(client, "/org/chdebugd1/vm/f")
    daemon.journal.stop()
    path = await client.start_vm(
        "f", firmware=firmware(daemon, burst(COUNT) + SLEEP), on_full=Variant("s", "drop")
    )

    await client.wait_for(lambda: known.values().get("DroppedEvents", 0) > 0)
    daemon.journal.go()

    async def all_are_made() -> bool:
        dropped = await client.get(path, "DroppedEvents")
        return bool(await client.get(path, "EventCount") + dropped == COUNT)

    await client.wait_for(all_are_made)
    await client.wait_for(known.holds)
