"""Who may do what: an unprivileged caller is refused by every method that changes anything."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import (
    MANAGER,
    PROPERTIES,
    VM,
    Client,
    Daemon,
    ErrorReply,
    connected,
    file_with,
    running_broker,
    running_daemon,
    story,
)
from tests.guests import SLEEP, mark, rom

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.dbus,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else"),
]

STRANGER = 65534  # nobody
PRIVILEGED = "org.freedesktop.systemd1.Privileged"
SAMPLES: dict[str, Any] = {"s": "a", "t": 0, "u": 1, "a{sv}": {}}
READS = {("org.chdebugd1.Manager", "ListVMs"), ("org.chdebugd1.Manager", "GetVM")}
READS |= {(VM, "GetEvents")}


@pytest.fixture(scope="module")
def open_daemon() -> Iterator[Daemon]:
    """In a folder that others can enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="chdebugd-test-") as name:
        folder = Path(name)
        with running_broker(folder) as broker, running_daemon(broker.address, folder) as daemon:
            yield daemon


def as_stranger(address: str, told: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    """What `told` returns with a connection of another user; JSON values only.

    A child becomes that user: a folder of tests that only root can enter is loaded by then.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            os.write(write_end, json.dumps(asyncio.run(_told(address, told))).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answers:
        answer = answers.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)


async def _told(address: str, told: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    async with connected(address) as client:
        return await told(client)


async def error_of(call: Coroutine[Any, Any, Any]) -> str:
    """The name of the error, or nothing."""
    try:
        await call
    except ErrorReply as error:
        return error.name
    return ""


async def walk(client: Client, path: str = "/") -> dict[str, str]:
    """Every method and writable property below `path`, and the error that it answers."""
    answers = {}
    xml = await client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
    node = ElementTree.fromstring(xml)
    for interface in node.findall("interface"):
        name = interface.attrib["name"]
        for method in interface.findall("method"):
            takes = [arg.attrib["type"] for arg in method.findall("arg[@direction='in']")]
            arguments = [SAMPLES[kind] for kind in takes if kind in SAMPLES]
            if len(arguments) == len(takes) and not name.startswith("org.freedesktop.DBus"):
                member = method.attrib["name"]
                call = client.call(path, name, member, "".join(takes), *arguments)
                answers[f"{path} {name} {member}"] = await error_of(call)
        for prop in interface.findall("property[@access='readwrite']"):
            member = prop.attrib["name"]
            value = Variant(prop.attrib["type"], "debug")
            call = client.call(path, PROPERTIES, "Set", "ssv", name, member, value)
            answers[f"{path} {name} {member}"] = await error_of(call)
    for child in node.findall("node"):
        answers |= await walk(client, f"{path.rstrip('/')}/{child.attrib['name']}")
    return answers


def test_a_stranger_may_read_and_change_nothing(open_daemon: Daemon) -> None:
    @story
    async def prepared(daemon: Daemon, client: Client) -> None:
        guest = file_with(daemon.runtime_dir.parent, rom(mark(1) + SLEEP), "guest")
        await client.start_vm("a", firmware=Variant("s", str(guest)))

    @story
    async def unharmed(daemon: Daemon, client: Client) -> None:
        assert await client.get("/org/chdebugd1/vm/a", "State") == "running"
        await client.call("/org/chdebugd1/vm/a", VM, "Remove")

    prepared(open_daemon)
    answers = as_stranger(open_daemon.address, walk)
    unharmed(open_daemon)

    allowed = {key for key, error in answers.items() if not error}
    assert allowed == {
        "/org/chdebugd1 org.chdebugd1.Manager ListVMs",
        "/org/chdebugd1 org.chdebugd1.Manager GetVM",
        "/org/chdebugd1/vm/a org.chdebugd1.VM GetEvents",
    }
    refused = {error for error in answers.values() if error}
    assert refused == {"org.chdebugd1.Error.AccessDenied"}
    assert len(answers) == 12


def test_what_is_privileged_says_so(open_daemon: Daemon) -> None:
    """The annotation of systemd's own interfaces, for tools that ask it."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        await client.start_vm("b")
        for path in (MANAGER[0], "/org/chdebugd1/vm/b"):
            xml = await client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
            for interface in ElementTree.fromstring(xml).findall("interface"):
                if interface.attrib["name"].startswith("org.chdebugd1."):
                    for each in interface.findall("method"):
                        about = {note.attrib["name"] for note in each.findall("annotation")}
                        key = interface.attrib["name"], each.attrib["name"]
                        assert (PRIVILEGED in about) == (key not in READS)
        await client.call("/org/chdebugd1/vm/b", VM, "Remove")

    told(open_daemon)


async def start_with_path(client: Client) -> str:
    options = {"firmware": Variant("s", "/etc/passwd")}
    return await error_of(client.call(*MANAGER, "StartVM", "sa{sv}", "x", options))


async def properties(client: Client) -> list[Any]:
    about = await client.call(MANAGER[0], PROPERTIES, "GetAll", "s", MANAGER[1])
    return [sorted(about), about["Version"].value]


def test_a_stranger_may_read_properties(open_daemon: Daemon) -> None:
    names, version = as_stranger(open_daemon.address, properties)

    assert names == ["KVMAvailable", "Limits", "Version"]
    assert version


def test_a_stranger_cannot_tell_which_files_there_are(open_daemon: Daemon) -> None:
    assert as_stranger(open_daemon.address, start_with_path) == "org.chdebugd1.Error.AccessDenied"
