"""A private dbus-daemon with the shipped policy, a daemon on it, and a client with verbs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from chdebugd.bus_dbus import GuardedWriter, to_broker
from chdebugd.dbus_library import Message, MessageBus, MessageType, Variant
from tests.dbus.fd_store import FdStore
from tests.guests import rom

ROOT = Path(__file__).parents[2]
TIMEOUT = 120  # seconds for anything that must happen, on a busy machine too
T = TypeVar("T")

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{policy}</include>
</busconfig>
"""


def shipped_policy(target: Path) -> Path:
    """The policy of dbus/, for the user who runs the tests where chdebugd does not exist."""
    text = (ROOT / "dbus" / "org.chdebugd1.conf").read_text()
    me = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    target.write_text(re.sub(r'user="chdebugd"', f'user="{me}"', text))
    return target


@dataclass
class Broker:
    """A dbus-daemon with the shipped policy; may be ended and started again."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self.directory / 'bus'}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        path, config = self.directory / "bus", self.directory / "bus.conf"
        path.unlink(missing_ok=True)
        policy = shipped_policy(self.directory / "org.chdebugd1.conf")
        config.write_text(BUS_CONFIG.format(path=path, policy=policy))
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"]
        command += ["--print-address=1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            lines.readline()  # the address: it listens now

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextmanager
def running_broker(directory: Path) -> Iterator[Broker]:
    directory.chmod(0o755)
    broker = Broker(directory)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
def bus_address(broker: Broker) -> str:
    return broker.address


class FakeJournald:
    """journald's native socket, read by a thread; `stop` and `go` are SIGSTOP and SIGCONT."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._entries: list[dict[str, str]] = []
        self._reads = threading.Lock()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(1 << 20):
            with self._reads:
                self._entries.append(parse_entry(data))

    def stop(self) -> None:
        """Read no more; one entry may still be taken."""
        self._reads.acquire()
        self._is_stopped = True

    def go(self) -> None:
        """Read again."""
        self._is_stopped = False
        self._reads.release()

    def close(self) -> None:
        if self._is_stopped:
            self.go()
        # An empty datagram ends the reader; a shutdown does not always wake one that just waits.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def entries(self, **match: str) -> list[dict[str, str]]:
        """All so far whose fields match."""
        return [e for e in list(self._entries) if match.items() <= e.items()]


def parse_entry(data: bytes) -> dict[str, str]:
    """One datagram of the native protocol."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[9 + size :]
        fields[name.decode()] = value.decode()
    return fields


@dataclass
class Daemon:
    """A chdebugd of ours; `start` may be called again after `stop`."""

    address: str
    runtime_dir: Path
    log_dir: Path
    journal: FakeJournald
    config: Path
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)
    """A command to run it under, where the host's journald is another one."""
    wrapper: list[str] = field(default_factory=list)
    """A command to run it under that changes its environment."""
    pass_fds: list[int] = field(default_factory=list)

    def start(self) -> None:
        command = [
            *self.prefix,
            *self.wrapper,
            sys.executable,
            "-m",
            "chdebugd",
            "--bus",
            self.address,
        ]
        command += ["--runtime-dir", str(self.runtime_dir), "--log-dir", str(self.log_dir)]
        command += ["--config", str(self.config)]
        if not self.prefix:
            command += ["--journal", str(self.journal.path)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | self.environment
        with self.messages.open("ab") as messages:
            self.process = subprocess.Popen(
                command, env=environment, stderr=messages, pass_fds=self.pass_fds
            )

    @property
    def messages(self) -> Path:
        """What it and its VM processes wrote to standard error."""
        return self.runtime_dir.parent / "messages"

    @property
    def fds(self) -> int:
        """How many descriptors it has open."""
        assert self.process is not None
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@contextmanager
def running_daemon(
    address: str, directory: Path, prefix: list[str] | None = None
) -> Iterator[Daemon]:
    for name in ("run", "log"):
        (directory / name).mkdir()
    journal = FakeJournald(directory / "journal")
    config = directory / "chdebugd.conf"
    daemon = Daemon(address, directory / "run", directory / "log", journal, config)
    daemon.prefix = prefix or []
    daemon.start()
    try:
        yield daemon
    finally:
        end_vm_processes(daemon.runtime_dir)
        journal.close()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop(signal.SIGKILL)
        print(daemon.messages.read_text())  # pytest shows it where the test failed


@pytest.fixture
def daemon(bus_address: str, tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(bus_address, tmp_path) as daemon:
        yield daemon


@pytest.fixture
def fd_store(tmp_path: Path) -> Iterator[FdStore]:
    store = FdStore(tmp_path / "notify")
    yield store
    store.close()


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all rows of a table, whose tests must leave nothing behind."""
    directory = tmp_path_factory.mktemp("shared")
    with running_broker(directory) as broker, running_daemon(broker.address, directory) as daemon:
        yield daemon


def vm_pids(runtime_dir: Path) -> dict[str, int]:
    """The VM processes of this runtime directory, by name."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if "chdebugd.vm_entry" in words and str(runtime_dir) in words:
            found[words[words.index("chdebugd.vm_entry") + 1]] = int(entry.name)
    return found


def end_vm_processes(runtime_dir: Path) -> None:
    for pid in vm_pids(runtime_dir).values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


MANAGER = ("/org/chdebugd1", "org.chdebugd1.Manager")
VM = "org.chdebugd1.VM"
PROPERTIES = "org.freedesktop.DBus.Properties"


class ErrorReply(Exception):
    """A method answered with this error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class Client:
    """A connection with verbs; collects all signals of chdebugd."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.signals: list[Message] = []
        self._came = asyncio.Event()
        bus.add_message_handler(self._handle)

    def _handle(self, message: Message) -> None:
        if message.message_type == MessageType.SIGNAL:
            self.signals.append(message)
            self._came.set()

    async def call(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        *body: Any,
        fds: list[int] | None = None,
    ) -> Any:
        """Results of a method: none, the one, or a list. Raises ErrorReply."""
        message = Message(
            destination="org.chdebugd1",
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            unix_fds=fds or [],
        )
        async with asyncio.timeout(TIMEOUT):
            reply = await self.bus.call(message)
        assert reply is not None
        if reply.message_type == MessageType.ERROR:
            raise ErrorReply(reply.error_name, reply.body[0])
        return reply.body[0] if len(reply.body) == 1 else reply.body or None

    async def start_vm(self, name: str, fds: list[int] | None = None, **options: Variant) -> str:
        given = {key.replace("_", "-"): value for key, value in options.items()}
        path: str = await self.call(*MANAGER, "StartVM", "sa{sv}", name, given, fds=fds)
        return path

    async def get(self, path: str, name: str, interface: str = VM) -> Any:
        return (await self.call(path, PROPERTIES, "Get", "ss", interface, name)).value

    async def wait_for(self, condition: Callable[[], bool | Coroutine[Any, Any, bool]]) -> None:
        """Until the condition holds; looks again whenever a signal comes, or soon."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                holds = condition()
                if asyncio.iscoroutine(holds):
                    holds = await holds
                if holds:
                    return
                self._came.clear()
                try:
                    await asyncio.wait_for(self._came.wait(), 0.05)
                except TimeoutError:
                    continue

    async def wait_state(self, path: str, *states: str) -> None:
        async def reached() -> bool:
            return await self.get(path, "State") in states

        await self.wait_for(reached)

    def events(self, path: str) -> list[list[Any]]:
        """Bodies of the DebugEvent signals of an object, in the order they came."""
        return [s.body for s in self.signals if s.path == path and s.member == "DebugEvent"]


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    """A client that hears chdebugd, once chdebugd owns its name."""
    bus = MessageBus(bus_address=address, negotiate_unix_fd=True)
    bus._writer = GuardedWriter(bus)  # a client that sends a lot must survive it too
    await bus.connect()
    client = Client(bus)
    rule = "type='signal',sender='org.chdebugd1'"
    await bus.call(to_broker("AddMatch", "s", rule))
    await client.wait_for(lambda: _has_owner(bus))
    try:
        yield client
    finally:
        await disconnect(bus)


async def disconnect(bus: MessageBus) -> None:
    """And close what dbus-next leaves to the garbage collector."""
    bus.disconnect()
    await bus.wait_for_disconnect()
    bus._stream.close()
    bus._sock.close()


async def restarted(daemon: Daemon, client: Client, number: int = signal.SIGKILL) -> None:
    """Another daemon in the place of this one; `client` is there all the while."""
    daemon.stop(number)
    await started(daemon, client)


async def started(daemon: Daemon, client: Client) -> None:
    """It answers."""
    daemon.start()
    await client.wait_for(lambda: _has_owner(client.bus))


async def _has_owner(bus: MessageBus) -> bool:
    reply = await bus.call(to_broker("NameHasOwner", "s", "org.chdebugd1"))
    return bool(reply.body[0])


def story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[Daemon], None]:
    """A test that is told as a coroutine with the daemon and a client on its bus."""

    def run(daemon: Daemon) -> None:
        async def told() -> None:
            async with connected(daemon.address) as client:
                await test(daemon, client)

        asyncio.run(told())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def file_with(tmp_path: Path, data: bytes, name: str = "image") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def firmware(daemon: Daemon, code: bytes, name: str = "guest") -> Variant:
    """The option of that name, for a guest of this code."""
    return Variant("s", str(file_with(daemon.runtime_dir.parent, rom(code), name)))
