"""What would end, drain or flood the daemon if dbus-next were left to itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from chdebugd.bus_dbus import Bus
from chdebugd.dbus_library import Message, Variant
from chdebugd.face_dbus import Face, method
from chdebugd.server_dbus import Call, Server
from tests.dbus.conftest import (
    MANAGER,
    PROPERTIES,
    Broker,
    Client,
    Daemon,
    ErrorReply,
    connected,
    disconnect,
    file_with,
    story,
)
from tests.guests import FOREVER, burst, rom

pytestmark = pytest.mark.dbus

PEER = "org.freedesktop.DBus.Peer"
REQUESTS = 4
STANDARD = r"org\.freedesktop\.DBus\.Error\."


@pytest.mark.kvm
def test_a_burst_of_signals_survives_a_broker_that_does_not_read(
    broker: Broker, daemon: Daemon
) -> None:
    count = 15_000

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        image = file_with(daemon.runtime_dir.parent, rom(burst(count) + FOREVER))
        path = await client.start_vm("burst", firmware=Variant("s", str(image)))
        os.kill(broker.pid, signal.SIGSTOP)
        await client.wait_for(lambda: len(daemon.journal.entries(CODE="0x40")) == count)
        os.kill(broker.pid, signal.SIGCONT)

        async def account_is_closed() -> bool:
            skipped = await client.get(path, "SkippedSignals")
            return len(client.events(path)) + int(skipped) == count

        await client.wait_for(account_is_closed)

    told(daemon)


@story
async def test_descriptors_nobody_wants_are_closed(daemon: Daemon, client: Client) -> None:
    await client.call(*MANAGER, "ListVMs")
    before = daemon.fds
    read_end, write_end = os.pipe()

    for _ in range(50):
        for interface, member in (
            (MANAGER[1], "NoSuchMethod"),
            (MANAGER[1], "ListVMs"),
            (MANAGER[1], "StartVM"),
            ("no.such.Interface", "Anything"),
        ):
            with pytest.raises(ErrorReply):
                await client.call(MANAGER[0], interface, member, "h", 0, fds=[read_end])
        signal_ = Message.new_signal("/a", "b.c", "D", "h", [0], unix_fds=[write_end])
        signal_.destination = "org.chdebugd1"
        await client.bus.send(signal_)
    await client.call(*MANAGER, "ListVMs")

    assert daemon.fds == before
    os.close(read_end)
    os.close(write_end)


@dataclass
class Faulty(Face):
    """A face with bugs, and with a method that takes long."""

    INTERFACE = "org.chdebugd1.Faulty"

    release: asyncio.Event

    @method()
    async def Fail(self, call: Call) -> None:
        raise RuntimeError("a secret of /work")

    @method((), (("number", "u"),))
    def Lie(self, call: Call) -> list[str]:
        return ["no number"]

    @method()
    async def Wait(self, call: Call) -> None:
        await self.release.wait()

    @method()
    def Release(self, call: Call) -> None:
        self.release.set()


async def allow_all(call: Call, action: str) -> None:
    """Nobody is refused."""


@asynccontextmanager
async def faulty_service(address: str) -> AsyncIterator[Bus]:
    bus = Bus(address)
    await bus.connect()
    Server(bus, "/org/chdebugd1", allow_all, REQUESTS).publish("/faulty", Faulty(asyncio.Event()))
    await bus.request_name("org.chdebugd1")
    try:
        yield bus
    finally:
        await disconnect(bus)


@pytest.mark.parametrize("member", ["Fail", "Lie"])
def test_a_bug_is_logged_once_and_not_told_to_callers(
    bus_address: str, member: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def told() -> None:
        async with faulty_service(bus_address), connected(bus_address) as client:
            for _ in range(20):
                with pytest.raises(ErrorReply) as error:
                    await client.call("/faulty", Faulty.INTERFACE, member)
                assert error.value.name == "org.freedesktop.DBus.Error.Failed"
                assert error.value.text == "Internal error of chdebugd; its journal has more"

    asyncio.run(told())

    assert len(caplog.records) == 1


def test_serial_numbers_start_over(bus_address: str) -> None:
    async def told() -> None:
        async with faulty_service(bus_address) as bus:
            bus._serial = 0xFFFF_FFFE
            for serial in (0xFFFF_FFFF, 1, 2):
                ping = Message(
                    destination="org.freedesktop.DBus", path="/", interface=PEER, member="Ping"
                )
                assert await bus.request(ping) == []
                assert ping.serial == serial

    asyncio.run(told())


def test_a_descriptor_may_be_closed_once_it_is_queued(broker: Broker) -> None:
    async def told() -> None:
        async with faulty_service(broker.address) as bus, connected(broker.address) as client:
            os.kill(broker.pid, signal.SIGSTOP)
            filler = bytes(8192)
            for _ in range(200):  # more than the socket takes
                bus.send(Message.new_signal("/a", "b.c", "Filler", "ay", [filler]))
            fd = os.memfd_create("gone")
            bus.send(Message.new_signal("/a", "b.c", "WithFd", "h", [0], unix_fds=[fd]))
            os.close(fd)
            os.kill(broker.pid, signal.SIGCONT)
            await client.wait_for(lambda: any(s.member == "WithFd" for s in client.signals))
            [got] = [s for s in client.signals if s.member == "WithFd"]
            assert os.readlink(f"/proc/self/fd/{got.unix_fds[0]}") == "/memfd:gone (deleted)"
            os.close(got.unix_fds[0])

    asyncio.run(told())


def test_a_bus_that_hangs_up_at_the_door_is_an_error(tmp_path: Path) -> None:
    async def told() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        bus = Bus(f"unix:path={tmp_path / 'bus'}")
        connecting = asyncio.ensure_future(bus.connect())
        peer, _ = await loop.sock_accept(listener)
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError, match="hung up"):
            async with asyncio.timeout(10):
                await connecting
        for each in (peer, listener, bus._stream, bus._sock):
            each.close()

    asyncio.run(told())


@story
async def test_the_machine_id_may_be_asked_for_twice(daemon: Daemon, client: Client) -> None:
    ids = [await client.call("/", PEER, "GetMachineId") for _ in range(3)]

    assert ids == [Path("/etc/machine-id").read_text().strip()] * 3


@story
async def test_a_call_needs_no_interface(daemon: Daemon, client: Client) -> None:
    assert await client.call("/org/chdebugd1", None, "ListVMs") == []
    assert await client.call("/org/chdebugd1", None, "GetManagedObjects") == {}
    assert await client.call("/", None, "Ping") is None


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "body", "error"),
    [
        ("/no", MANAGER[1], "ListVMs", "", [], "UnknownObject"),
        ("/org/chdebugd1/vm", "org.chdebugd1.VM", "Kill", "", [], "UnknownObject"),
        ("/org/chdebugd1/vm/no", "org.chdebugd1.VM", "Kill", "", [], "UnknownObject"),
        (MANAGER[0], "org.chdebugd1.VM", "Kill", "", [], "UnknownInterface"),
        (MANAGER[0], MANAGER[1], "Kill", "", [], "UnknownMethod"),
        (MANAGER[0], None, "Kill", "", [], "UnknownMethod"),
        (MANAGER[0], MANAGER[1], "ListVMs", "s", ["x"], "InvalidArgs"),
        (MANAGER[0], MANAGER[1], "GetVM", "", [], "InvalidArgs"),
        (MANAGER[0], MANAGER[1], "GetVM", "u", [1], "InvalidArgs"),
        (MANAGER[0], MANAGER[1], "StartVM", "sa{ss}", ["a", {}], "InvalidArgs"),
        (MANAGER[0], PROPERTIES, "Get", "ss", [MANAGER[1], "No"], "UnknownProperty"),
        (MANAGER[0], PROPERTIES, "Get", "ss", [MANAGER[1], "ListVMs"], "UnknownProperty"),
        (MANAGER[0], PROPERTIES, "Get", "ss", ["no.such", "No"], "UnknownInterface"),
        (MANAGER[0], PROPERTIES, "Get", "s", [MANAGER[1]], "InvalidArgs"),
        ("/no", PROPERTIES, "Get", "ss", [MANAGER[1], "Version"], "UnknownObject"),
        ("/no", PROPERTIES, "GetAll", "s", [""], "UnknownObject"),
        ("/no", PROPERTIES, "GetAll", "s", [PROPERTIES], "UnknownObject"),
        (MANAGER[0], PROPERTIES, "GetAll", "s", ["no.such"], "UnknownInterface"),
        (
            MANAGER[0],
            PROPERTIES,
            "Set",
            "ssv",
            [MANAGER[1], "Version", Variant("s", "2")],
            "PropertyReadOnly",
        ),
        (
            "/org/freedesktop/LogControl1",
            PROPERTIES,
            "Set",
            "ssv",
            ["org.freedesktop.LogControl1", "LogLevel", Variant("u", 7)],
            "InvalidArgs",
        ),
        (
            "/org/freedesktop/LogControl1",
            PROPERTIES,
            "Set",
            "ssv",
            ["org.freedesktop.LogControl1", "LogLevel", Variant("s", "loud")],
            "InvalidArgs",
        ),
    ],
)
def test_wrong_calls_have_the_standard_errors(
    shared_daemon: Daemon,
    path: str,
    interface: str | None,
    member: str,
    signature: str,
    body: list[object],
    error: str,
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        with pytest.raises(ErrorReply, match=STANDARD + error):
            await client.call(path, interface, member, signature, *body)

    told(shared_daemon)


@story
async def test_callers_cannot_make_the_daemon_log(daemon: Daemon, client: Client) -> None:
    said = daemon.messages.read_text()

    for number in range(100):
        for member, signature, body in (
            (f"No{number}", "", []),
            ("StartVM", "sa{sv}", ["/", {}]),
            ("StartVM", "sa{sv}", ["a", {"x" * 5000 + str(number): Variant("s", "")}]),
            ("GetVM", "s", [f"no{number}"]),
        ):
            with pytest.raises(ErrorReply) as error:
                await client.call(*MANAGER, member, signature, *body)
            assert len(error.value.text) <= 1000
        spoof = Message.new_signal(
            "/a", "org.freedesktop.systemd1.Manager", "JobRemoved", "s", [""]
        )
        spoof.destination = "org.chdebugd1"
        await client.bus.send(spoof)
    await client.call(*MANAGER, "ListVMs")

    assert daemon.messages.read_text() == said


@story
async def test_a_message_without_end_is_refused_at_once(daemon: Daemon, client: Client) -> None:
    options = {f"no{number}": Variant("y", 0) for number in range(100_000)}
    huge = asyncio.create_task(client.call(*MANAGER, "StartVM", "sa{sv}", "a", options))

    with pytest.raises(ErrorReply, match=r"Error\.LimitExceeded.*262144"):
        await huge

    fd = os.memfd_create("with a huge message")
    before = daemon.fds
    with pytest.raises(ErrorReply, match=r"Error\.LimitExceeded"):
        await client.call(*MANAGER, "StartVM", "ayh", bytes(1_000_000), 0, fds=[fd])
    assert daemon.fds == before
    os.close(fd)
    assert await client.call(*MANAGER, "ListVMs") == []


def test_requests_that_wait_are_bounded_for_each_caller(bus_address: str) -> None:
    async def told() -> None:
        service = faulty_service(bus_address)
        async with service, connected(bus_address) as greedy, connected(bus_address) as other:
            waiting = [
                asyncio.create_task(greedy.call("/faulty", Faulty.INTERFACE, "Wait"))
                for _ in range(REQUESTS)
            ]
            await asyncio.sleep(0)  # now they are sent
            with pytest.raises(ErrorReply, match=r"Error\.LimitExceeded.* 4 requests"):
                await greedy.call("/faulty", Faulty.INTERFACE, "Release")
            await other.call("/faulty", Faulty.INTERFACE, "Release")
            await asyncio.gather(*waiting)
            await greedy.call("/faulty", Faulty.INTERFACE, "Release")

    asyncio.run(told())
