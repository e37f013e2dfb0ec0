"""A VM process that its guest has taken over may say what it likes: only its own VM suffers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.dbus.conftest import (
    ROOT,
    VM,
    Client,
    Daemon,
    ErrorReply,
    firmware,
    started,
    story,
    vm_pids,
)
from tests.guests import SHUTDOWN, SLEEP, mark

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
LONE = "\ud800"
# Greets as a VM process does, takes the start, and then says what it was told to say.
ROGUE = """
import json, os, socket, sys
from chdebugd.control import Channel, Status
from chdebugd.trace.ring import Ring

listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
connection, _ = listener.accept()
channel = Channel(connection)
hello = {"hello": Status().to_message(), "pid": os.getpid(), "keep": {}}
channel.send(hello, [Ring.create().fd, os.eventfd(0)])
connection.setblocking(True)
request = json.loads(connection.recv(65536))
channel.send({"status": {"state": "starting"}})
channel.send({"status": {"state": "running"} | json.loads(sys.argv[2])})
answer = {"id": request["id"], "error": "StartFailed", "message": json.loads(sys.argv[3])}
channel.send(answer)
connection.recv(65536)
"""


async def start_as_rogue(
    daemon: Daemon, client: Client, status: dict[str, Any], message: str
) -> str:
    """What the caller hears of a start that such a process answers."""
    directory = daemon.runtime_dir / "vm" / "rogue"
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-c", ROGUE, str(directory / "sock")]
    command += [json.dumps(status), json.dumps(message)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(  # noqa: ASYNC220 - forks, waits for nothing
        command, env=environment, stdout=subprocess.PIPE
    ) as rogue:
        assert rogue.stdout is not None
        await asyncio.to_thread(rogue.stdout.readline)
        with pytest.raises(ErrorReply) as refused:
            await client.start_vm("rogue", firmware=firmware(daemon, mark(1) + SLEEP))
        await asyncio.to_thread(rogue.wait)
    return refused.value.text


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"exit_cost_nsec": 1 << 64},
        {"exit_cost_nsec": -1},
        {"result": "\0"},
        {"result": LONE},
        {"terminals": {"serial": "/dev/pts/\0"}},
        {"terminals": {LONE: ""}},
        {"terminals": {str(number): "" for number in range(1000)}},
        {"sentence": "x" * 20_000},
    ],
)
def test_a_status_is_none_that_the_bus_would_not_take(
    daemon: Daemon, status: dict[str, Any]
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        other = await client.start_vm("other", firmware=firmware(daemon, mark(1) + SLEEP))
        assert daemon.process is not None
        said = await start_as_rogue(daemon, client, status, f"a{LONE}b\0c")
        assert said
        objects = await client.call("/org/chdebugd1", OBJECT_MANAGER, "GetManagedObjects")
        assert list(objects) == [other]
        await client.call(other, VM, "Pause")
        await client.wait_state(other, "paused")
        assert daemon.process.poll() is None
        assert "Traceback" not in daemon.messages.read_text()

    told(daemon)


@pytest.mark.parametrize(
    "counts",
    [{"events": 1 << 64}, {"last_code": 256}, {"boots": -1}, {"events": "x"}, {"boot_id": "\0"}, 7],
)
def test_last_words_are_none_that_the_bus_would_not_take(daemon: Daemon, counts: object) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("rogue", firmware=firmware(daemon, mark(1) + SLEEP))
        daemon.stop()
        os.kill(vm_pids(daemon.runtime_dir)["rogue"], signal.SIGKILL)
        directory = daemon.runtime_dir / "vm" / "rogue"
        words = {"status": {"state": "stopped", "result": "shutdown"}, "counts": counts}
        (directory / "last-words.json").write_text(json.dumps(words))
        (directory / "sock").unlink()

        await started(daemon, client)

        await client.wait_state(path, "failed")
        assert list(await client.call("/org/chdebugd1", OBJECT_MANAGER, "GetManagedObjects")) == [
            path
        ]
        assert await client.get(path, "Result") == "process-died"

    told(daemon)


@pytest.mark.parametrize(
    "options", [{"cpus": ["u", 1.5]}, {"memory": ["t", 1 << 64]}, {"cmdline": ["s", LONE]}]
)
def test_options_of_a_record_are_none_that_the_bus_would_not_take(
    daemon: Daemon, options: dict[str, Any]
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("old", firmware=firmware(daemon, mark(1) + SHUTDOWN))
        await client.wait_state(path, "stopped")
        record = daemon.runtime_dir / "vm" / "old.json"
        await client.wait_for(lambda: "stopped" in record.read_text())
        daemon.stop()
        kept = json.loads(record.read_text())
        kept["options"] |= options
        record.write_text(json.dumps(kept))

        await started(daemon, client)

        assert list(await client.call("/org/chdebugd1", OBJECT_MANAGER, "GetManagedObjects")) == [
            path
        ]
        assert await client.get(path, "Options") == {}

    told(daemon)
