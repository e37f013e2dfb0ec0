"""A real journald of our own has every mark once, whenever a VM process dies."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from chdebugd.trace.ring import CAPACITY
from tests.dbus.conftest import (
    ROOT,
    Client,
    Daemon,
    file_with,
    running_daemon,
    story,
    vm_pids,
)
from tests.guests import FOREVER, burst, mark, rom

JOURNALD = "/lib/systemd/systemd-journald"
TIMEOUT = 120  # seconds
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.dbus,
    pytest.mark.skipif(
        os.getuid() != 0 or not Path(JOURNALD).exists() or not shutil.which("unshare"),
        reason="needs root and systemd-journald, to have a journal of its own",
    ),
]
START = f"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal/$(cat /etc/machine-id)
printf '[Journal]\\nStorage=volatile\\nRateLimitIntervalSec=0\\n' \
    > /run/systemd/journald.conf.d/test.conf
exec {JOURNALD}
"""
COUNT = 15_000
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"


@dataclass
class Journald:
    """In a mount namespace of its own, where the host's /run is not."""

    process: subprocess.Popen[bytes]

    @property
    def inside(self) -> list[str]:
        return ["nsenter", f"--target={self.process.pid}", "--mount", "--"]

    def entries(self, kind: MessageId, vm: str) -> list[dict[str, str]]:
        command = ["journalctl", "--output=json", "--quiet", f"MESSAGE_ID={kind.value}", f"VM={vm}"]
        output = subprocess.run([*self.inside, *command], check=True, capture_output=True).stdout
        return [json.loads(line) for line in output.splitlines()]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@pytest.fixture(scope="module")
def journald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journald]:
    messages = tmp_path_factory.mktemp("journald") / "messages"
    with messages.open("wb") as out:
        command = ["unshare", "--mount", "--propagation=private", "sh", "-c", START]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    journald = Journald(process)
    socket = f"/proc/{process.pid}/root/run/systemd/journal/socket"
    deadline = time.monotonic() + TIMEOUT
    while not Path(socket).exists():
        assert process.poll() is None, messages.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield journald
    journald.signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def daemon(bus_address: str, tmp_path: Path, journald: Journald) -> Iterator[Daemon]:
    with running_daemon(bus_address, tmp_path, journald.inside) as daemon:
        yield daemon


async def account(client: Client, journald: Journald, path: str, name: str) -> None:
    """Once the death is told, nothing more of this boot comes."""
    await client.wait_state(path, "failed")

    def is_told() -> bool:
        return bool(journald.entries(MessageId.VM_FAILED, name))

    await client.wait_for(is_told)
    made = await client.get(path, "EventCount")
    sequence = [int(entry["SEQ"]) for entry in journald.entries(MessageId.EVENT, name)]
    assert sequence == list(range(1, made + 1))


def image(daemon: Daemon) -> Variant:
    code = rom(burst(COUNT) + FOREVER)
    return Variant("s", str(file_with(daemon.runtime_dir.parent, code, "guest")))


@pytest.mark.parametrize("moment", [0, 0.02, 0.06])
def test_no_mark_is_lost_or_double_when_a_vm_process_dies(
    daemon: Daemon, journald: Journald, moment: float
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        name = f"dies-{int(moment * 1000)}"
        path = await client.start_vm(name, firmware=image(daemon))
        await client.wait_for(lambda: bool(client.events(path)))
        await asyncio.sleep(moment)  # to die at another place each time
        os.kill(vm_pids(daemon.runtime_dir)[name], signal.SIGKILL)
        await account(client, journald, path, name)

    told(daemon)


MANY = 7  # more than the event loop of a host with two processors has threads
ANSWER = 30  # seconds: half of what a takeover waits for journald


def test_many_takeovers_beside_a_still_journald_hold_up_no_caller(
    daemon: Daemon, journald: Journald
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        names = [f"many-{number}" for number in range(MANY)]
        paths = [await client.start_vm(name, firmware=small(daemon)) for name in names]
        journald.signal(signal.SIGSTOP)
        try:
            for pid in vm_pids(daemon.runtime_dir).values():
                os.kill(pid, signal.SIGKILL)
            for path in paths:
                await client.wait_state(path, "failed")
            async with asyncio.timeout(ANSWER):
                await client.call("/org/chdebugd1", OBJECT_MANAGER, "GetManagedObjects")
        finally:
            journald.signal(signal.SIGCONT)
        for name, path in zip(names, paths, strict=True):
            await account(client, journald, path, name)

    told(daemon)


def test_an_end_is_told_once_though_the_daemon_forgot_that_it_did(
    daemon: Daemon, journald: Journald
) -> None:
    """It died between the entry and its note that there is one."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("twice", firmware=small(daemon))
        os.kill(vm_pids(daemon.runtime_dir)["twice"], signal.SIGKILL)
        await account(client, journald, path, "twice")
        daemon.stop()
        record = daemon.runtime_dir / "vm" / "twice.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"owes_end": True}))

        daemon.start()

        await client.wait_for(lambda: len(journald.entries(MessageId.TAKEOVER, "twice")) == 2)
        await client.wait_for(lambda: not json.loads(record.read_text())["owes_end"])
        assert len(journald.entries(MessageId.VM_FAILED, "twice")) == 1

    told(daemon)


def test_drops_are_told_once_though_the_process_could_not_tell_them(
    daemon: Daemon, journald: Journald
) -> None:
    """journald stands still, and the ring is full, when the process dies."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        code = rom(burst(CAPACITY + COUNT) + mark(0x41) + FOREVER)
        image = Variant("s", str(file_with(daemon.runtime_dir.parent, code, "flood")))
        journald.signal(signal.SIGSTOP)
        try:
            path = await client.start_vm("drops", firmware=image, on_full=Variant("s", "drop"))

            async def is_through() -> bool:
                return bool(await client.get(path, "LastCode") == 0x41)

            await client.wait_for(is_through)
            os.kill(vm_pids(daemon.runtime_dir)["drops"], signal.SIGKILL)
            await client.wait_state(path, "failed")
        finally:
            journald.signal(signal.SIGCONT)
        await account(client, journald, path, "drops")
        entries = journald.entries(MessageId.VM_DROPPED, "drops")
        dropped = await client.get(path, "DroppedEvents")
        assert dropped > 0
        assert sum(int(entry["DROPPED"]) for entry in entries) == dropped
        assert dropped + await client.get(path, "EventCount") == CAPACITY + COUNT + 1

    told(daemon)


def small(daemon: Daemon) -> Variant:
    """A guest that marks once."""
    code = rom(mark(1) + FOREVER)
    return Variant("s", str(file_with(daemon.runtime_dir.parent, code, "small")))


LAG = 0.5  # seconds that journald is behind
TAKE_OVER = f"""
import asyncio, os, signal, sys
from chdebugd.control import Status
from chdebugd.options import VmOptions
from chdebugd.recovery import Recovery
from chdebugd.remains import Remains
from chdebugd.trace.journal import Journal
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.ring import Reader, Ring
from chdebugd.vm import VM

async def take_over(journald):
    ring = Ring.create()
    ring.start_boot(1, 1)
    for code in range(6):
        assert ring.write(code)
    JournalSink(ring, Journal(), "lag", None).drain()
    ring.move(Reader.JOURNAL, 3)  # so far the dead process had come
    vm = VM("lag", VmOptions.empty(), None, 0)
    vm.signals.attach(ring)
    asyncio.get_running_loop().call_later({LAG}, os.kill, journald, signal.SIGCONT)
    died = asyncio.get_running_loop().create_future()
    died.set_result(Status(state="failed", result="process-died"))
    await Recovery("").recover(Remains(vm), died)

asyncio.run(take_over(int(sys.argv[1])))
"""


def test_what_journald_has_not_looked_at_yet_is_not_sent_again(journald: Journald) -> None:
    """Entries wait in its socket while it is stopped; the process that sent them is dead."""
    journald.signal(signal.SIGSTOP)
    command = [*journald.inside, sys.executable, "-c", TAKE_OVER, str(journald.process.pid)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})

    deadline = time.monotonic() + TIMEOUT
    while not journald.entries(MessageId.VM_FAILED, "lag"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sequence = [int(entry["SEQ"]) for entry in journald.entries(MessageId.EVENT, "lag")]
    assert sequence == [1, 2, 3, 4, 5, 6]


FEW = """
import os, resource, sys
from chdebugd.trace.journal_reader import last_sequence

room, hard = int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
last_sequence("")  # has imported all it needs
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + room, hard))
try:
    print(last_sequence(sys.argv[1]))
except OSError as error:
    print(error.strerror)
"""
SEND = """
from chdebugd.trace.journal import Journal
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.trace.ring import Ring

ring = Ring.create()
ring.start_boot(1, 1)
ring.write(1)
JournalSink(ring, Journal(), "old", None).drain()
print(ring.boot_id(1))
"""


def test_a_journal_that_cannot_be_read_whole_is_not_taken_for_it(journald: Journald) -> None:
    """Its library leaves out files for which there is no descriptor."""

    def run(script: str, *words: str) -> str:
        command = [*journald.inside, sys.executable, "-c", script, *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    boot = run(SEND)
    for _ in range(3):
        archive(journald)
        run(SEND)

    assert run(FEW, boot, "1000") == "1"
    assert {run(FEW, boot, str(room)) for room in range(1, 5)} == {"Too many open files"}


def archive(journald: Journald) -> None:
    """Have the journal begin another file (systemd-journald.service(8), SIGUSR2)."""
    count = ["sh", "-c", "ls /run/log/journal/*/*.journal | wc -l"]

    def files() -> int:
        return int(
            subprocess.run([*journald.inside, *count], check=True, capture_output=True).stdout
        )

    before, deadline = files(), time.monotonic() + TIMEOUT
    journald.signal(signal.SIGUSR2)
    while files() == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
