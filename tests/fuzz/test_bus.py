"""Callers that send anything: each call is answered, with a named error, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from chdebugd.dbus_library import Message, MessageType, Variant
from tests.dbus.conftest import MANAGER, TIMEOUT, Client, Daemon, ErrorReply, connected, file_with
from tests.fuzz.conftest import FACTOR
from tests.fuzz.values import Values
from tests.guests import SLEEP, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus, pytest.mark.fuzz]

CALLS = 20_000 * FACTOR
AT_ONCE = 50
TARGET = "/org/chdebugd1/vm/target"
OBJECTS = ("/org/chdebugd1", TARGET, "/org/freedesktop/LogControl1", "/org/chdebugd1/vm/none")
KEYS = (
    "kernel initrd cmdline firmware cpus memory disks net rng serial debug-console "
    "firmware-debug log-file log-level code-map on-full"
).split()
GOOD_ERRORS = ("org.chdebugd1.Error.", "org.freedesktop.DBus.Error.")


class Callers:
    """Makes calls to everything that introspection shows, and to what it does not."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client = client
        self._values = Values(seed)
        self._random = self._values.random
        self._methods: list[tuple[str, str, str, str]] = []
        self._properties: list[tuple[str, str]] = []

    async def introspect(self) -> None:
        for path in OBJECTS[:3]:
            xml = await self._client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
            for interface in ElementTree.fromstring(xml).iter("interface"):
                name = interface.get("name", "")
                for method in interface.iter("method"):
                    takes = [
                        arg.get("type", "")
                        for arg in method.iter("arg")
                        if arg.get("direction", "in") == "in"
                    ]
                    self._methods.append((path, name, method.get("name", ""), "".join(takes)))
                for prop in interface.iter("property"):
                    self._properties.append((name, prop.get("name", "")))

    async def call(self) -> None:
        """One call with descriptors of all kinds; the answer must be a result or a named error."""
        with contextlib.ExitStack() as stack:
            fds = self._descriptors(stack)
            self._values.n_fds = len(fds)
            message = self._message()
            message.unix_fds = fds
            async with asyncio.timeout(TIMEOUT):
                reply = await self._client.bus.call(message)
        if reply.message_type == MessageType.ERROR:
            text = str(reply.body[0])
            assert reply.error_name.startswith(GOOD_ERRORS), (reply.error_name, text)
            assert "Traceback" not in text
            assert text

    def _descriptors(self, stack: contextlib.ExitStack) -> list[int]:
        """A FIFO whose reader is gone, a directory, an empty file, a socket, or none."""
        if self._random.random() < 0.7:
            return []
        reader, writer = os.pipe()
        os.close(reader)
        left, right = socket.socketpair()
        right.close()
        fds = [writer, os.open("/", os.O_RDONLY), os.memfd_create("empty"), left.detach()]
        for fd in fds:
            stack.callback(os.close, fd)
        return self._random.sample(fds, self._random.randrange(1, 5))

    def _message(self) -> Message:
        choice = self._random.random()
        if choice < 0.4:
            return self._start()
        if choice < 0.6:
            return self._property()
        path, interface, member, signature = self._random.choice(self._methods)
        if (member, self._random.random() < 0.9) == ("Remove", True):
            member = "GetEvents"
        path = path if self._random.random() < 0.9 else self._random.choice(OBJECTS)
        if self._random.random() < 0.5:
            signature = self._values.signature()
        return self._to(path, interface, member, signature, self._values.body(signature))

    def _start(self) -> Message:
        """StartVM, mostly with a key that no VM can start with."""
        keys = self._random.sample(KEYS, self._random.randrange(4))
        options = {key: self._values.variant() for key in keys}
        if self._random.random() < 0.995:
            options["no-such-option"] = self._values.variant()
        return self._to(*MANAGER, "StartVM", "sa{sv}", [self._values.text(), options])

    def _property(self) -> Message:
        interface, name = self._random.choice(self._properties)
        if self._random.random() < 0.2:
            name = self._values.text()
        path = self._random.choice(OBJECTS)
        properties = "org.freedesktop.DBus.Properties"
        if self._random.random() < 0.5:
            return self._to(path, properties, "Get", "ss", [interface, name])
        value = self._values.variant()
        return self._to(path, properties, "Set", "ssv", [interface, name, value])

    def _to(
        self, path: str, interface: str, member: str, signature: str, body: list[object]
    ) -> Message:
        return Message(
            destination="org.chdebugd1",
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
        )


async def start_target(client: Client, image: Path) -> None:
    """The VM whose object is called; someone may have removed it."""
    with contextlib.suppress(ErrorReply):
        await client.start_vm("target", firmware=Variant("s", str(image)))


def n_descriptors(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def test_every_call_is_answered_and_leaves_nothing(daemon: Daemon, seed: int) -> None:
    image = file_with(Path(tempfile.mkdtemp(dir=daemon.runtime_dir)), rom(mark(1) + SLEEP))

    async def told() -> None:
        async with connected(daemon.address) as client:
            await start_target(client, image)
            callers = Callers(client, seed)
            await callers.introspect()
            before = n_descriptors(daemon)
            for turn in range(CALLS // AT_ONCE):
                await asyncio.gather(*(callers.call() for _ in range(AT_ONCE)))
                if turn % 20 == 0:
                    await start_target(client, image)
                    client.signals.clear()
            for name, _, path in await client.call(*MANAGER, "ListVMs"):
                if name != "target":
                    await client.call(path, "org.chdebugd1.VM", "Remove")
            await client.wait_for(lambda: n_descriptors(daemon) <= before + 8)
            assert await client.call(*MANAGER, "GetVM", "s", "target")

    asyncio.run(told())
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert "Traceback" not in daemon.messages.read_text()
