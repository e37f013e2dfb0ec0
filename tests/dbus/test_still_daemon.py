"""A daemon that stands still reads nothing of what a VM process tells: the guest runs on."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import (
    VM,
    Client,
    Daemon,
    ErrorReply,
    connected,
    file_with,
    story,
    vm_pids,
)
from tests.guests import metronome, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
CLIENTS = 7  # a bus lets none of them wait for more than 128 answers
REQUESTS = 100  # of each; some 680 messages fill the socket
ANSWERED = "answered"
WRONG_STATE = "org.chdebugd1.Error.WrongState"
NO_ANSWER = "org.chdebugd1.Error.NotResponding"


def sockets(pid: int) -> int:
    """How many the process has open; one of them is its line to the daemon."""
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(fd))
    return sum(link.startswith("socket:") for link in links)


async def outcome(client: Client, path: str, method: str) -> str:
    try:
        await client.call(path, VM, method)
    except ErrorReply as error:
        return str(error)
    return ANSWERED


async def calls_in_turn(client: Client, path: str) -> set[str]:
    """All at once."""
    methods = ["Pause", "Resume"] * (REQUESTS // 2)
    return set(await asyncio.gather(*(outcome(client, path, method) for method in methods)))


@story
async def test_a_line_that_overflows_is_made_anew(daemon: Daemon, client: Client) -> None:
    """The VM process has hundreds of requests to answer while the daemon reads no answers."""
    image = file_with(daemon.runtime_dir.parent, rom(metronome(100)))
    path = await client.start_vm("told", firmware=Variant("s", str(image)))
    assert daemon.process is not None
    [pid] = vm_pids(daemon.runtime_dir).values()
    before = sockets(pid)

    os.kill(pid, signal.SIGSTOP)
    async with AsyncExitStack() as stack:
        connections = [connected(daemon.address) for _ in range(CLIENTS)]
        callers = [await stack.enter_async_context(each) for each in connections]
        calls = [asyncio.create_task(calls_in_turn(caller, path)) for caller in callers]
        for caller in callers * 3:  # the bus keeps the order: then the daemon has sent all requests
            await caller.call("/", "org.freedesktop.DBus.Peer", "Ping")
        os.kill(daemon.process.pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
        await client.wait_for(lambda: sockets(pid) < before)
        os.kill(daemon.process.pid, signal.SIGCONT)
        outcomes = set().union(*await asyncio.gather(*calls))

    assert {each.split(":")[0] for each in outcomes - {ANSWERED}} - {WRONG_STATE} == {NO_ANSWER}

    async def resumes() -> bool:
        await outcome(client, path, "Pause")  # which it may be, or not
        return await outcome(client, path, "Resume") == ANSWERED

    await client.wait_for(resumes)
    assert await client.get(path, "State") == "running"
    made = await client.get(path, "EventCount") + 50
    await client.wait_for(lambda: len(client.events(path)) >= made)
    await client.call(path, VM, "Kill")
    await client.wait_state(path, "stopped")
    count = await client.get(path, "EventCount")
    await client.wait_for(lambda: len(client.events(path)) == count)
    assert [event[0] for event in client.events(path)] == list(range(1, count + 1))
    entries = daemon.journal.entries(MESSAGE_ID=MessageId.EVENT.value)
    assert [int(entry["SEQ"]) for entry in entries] == list(range(1, count + 1))
