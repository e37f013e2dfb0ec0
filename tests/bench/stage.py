"""A chdebugd on a private dbus-daemon, and a caller that hears no signals."""

from __future__ import annotations

import asyncio
import compileall
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chdebugd.dbus_library import Message, MessageBus, MessageType, Variant
from tests.bench import patience
from tests.dbus.conftest import BUS_CONFIG, shipped_policy

ROOT = Path(__file__).parents[2]
MANAGER = ("/org/chdebugd1", "org.chdebugd1.Manager")
VM = "org.chdebugd1.VM"


@dataclass
class Stage:
    """What a row plays on."""

    address: str
    directory: Path
    bus: MessageBus
    daemon: subprocess.Popen[bytes]

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", *body: Any
    ) -> list[Any]:
        """A method's results; raises RuntimeError where it answers an error."""
        message = Message(
            destination="org.chdebugd1",
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        async with patience.awaiting(f"The reply to {member}"):
            reply = await self.bus.call(message)
        assert reply is not None
        if reply.message_type == MessageType.ERROR:
            raise RuntimeError(f"{member}: {reply.body[0]}")
        results: list[Any] = reply.body
        return results

    async def start_vm(self, name: str, rom: Path | None = None, **options: Variant) -> str:
        """The path of the VM."""
        given = {key.replace("_", "-"): value for key, value in options.items()}
        given.setdefault("memory", Variant("t", 1 << 20))
        if rom:
            given["firmware"] = Variant("s", str(rom))
        [path] = await self.call(*MANAGER, "StartVM", "sa{sv}", name, given)
        return str(path)

    async def get(self, path: str, name: str) -> Any:
        """A property of a VM."""
        properties = "org.freedesktop.DBus.Properties"
        return (await self.call(path, properties, "Get", "ss", VM, name))[0].value

    async def first_mark_nsec(self, path: str) -> int:
        """CLOCK_MONOTONIC of the first event of a VM's boot."""
        events: list[Any] = []
        async with patience.awaiting(f"The first mark of {path}"):
            while not events:
                [events] = await self.call(path, VM, "GetEvents", "tu", 0, 1)
        start: int = 1000 * await self.get(path, "StartTimestampMonotonic")
        return start + int(events[0][1])

    async def wait_ended(self, path: str) -> None:
        """Until the VM's process is gone, and all it had to say is said."""
        name = path.rpartition("/")[2]
        socket = self.directory / "run/vm" / name / "sock"
        async with patience.awaiting(f"The end of VM '{name}'"):
            while socket.exists():  # noqa: ASYNC110 - nobody tells when a file goes
                await asyncio.sleep(0.02)

    def log_stamps(self, name: str) -> list[int]:
        """Nanoseconds of each line of a log file in the log directory."""
        return stamps((self.directory / "log" / name).read_text())

    def vm_pids(self) -> list[int]:
        """The VM processes of this stage."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"chdebugd.vm_entry" in words and str(self.directory / "run").encode() in words:
                found.append(int(entry.name))
        return found


def stamps(log: str) -> list[int]:
    """Nanoseconds of each line of a log file."""
    lines = log.splitlines()
    return [round(float(line.split()[1].removesuffix("ms:")) * 1e6) for line in lines]


@asynccontextmanager
async def stage(journal: Path | None = None) -> AsyncIterator[Stage]:
    """Start it; `journal` is journald's socket, None for none."""
    compileall.compile_dir(ROOT / "chdebugd", quiet=2)
    with (
        tempfile.TemporaryDirectory(prefix="chdebugd-bench-") as directory,
        _broker(Path(directory)) as address,
    ):
        place = Path(directory)
        with _daemon(address, place, journal or place / "no-journal") as daemon:
            bus = await MessageBus(bus_address=address).connect()
            playing = Stage(address, place, bus, daemon)
            try:
                async with patience.awaiting("The daemon's name on the bus"):
                    await _wait_for_name(bus)
                yield playing
            finally:
                for pid in playing.vm_pids():
                    os.kill(pid, 9)
                bus.disconnect()


@contextmanager
def _broker(place: Path) -> Any:
    place.chmod(0o755)
    policy = shipped_policy(place / "policy.conf")
    path, config = place / "bus", place / "bus.conf"
    config.write_text(BUS_CONFIG.format(path=path, policy=policy))
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"]
    with subprocess.Popen(
        [*command, "--print-address=1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as broker:
        assert broker.stdout is not None
        try:
            patience.await_output(broker.stdout, "The address of dbus-daemon")
            broker.stdout.readline()
            yield f"unix:path={path}"
        finally:
            broker.kill()


@contextmanager
def _daemon(address: str, place: Path, journal: Path) -> Any:
    for name in ("run", "log"):
        (place / name).mkdir()
    command = [sys.executable, "-m", "chdebugd", "--bus", address, "--journal", str(journal)]
    command += ["--runtime-dir", str(place / "run"), "--log-dir", str(place / "log")]
    command += ["--config", str(place / "none")]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as daemon:
        try:
            yield daemon
        finally:
            daemon.kill()


async def _wait_for_name(bus: MessageBus) -> None:
    dbus = "org.freedesktop.DBus"
    ask = {"destination": dbus, "path": "/org/freedesktop/DBus", "interface": dbus}
    while True:
        message = Message(**ask, member="NameHasOwner", signature="s", body=["org.chdebugd1"])
        reply = await bus.call(message)
        if reply is not None and reply.body[0]:
            return
        await asyncio.sleep(0.05)
