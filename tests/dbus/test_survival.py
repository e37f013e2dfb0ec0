"""Whatever dies or stalls: VMs, states, counts and marks are there afterwards, each once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import (
    MANAGER,
    ROOT,
    TIMEOUT,
    Broker,
    Client,
    Daemon,
    ErrorReply,
    firmware,
    restarted,
    story,
    vm_pids,
)
from tests.dbus.fd_store import FdStore
from tests.guests import FOREVER, SHUTDOWN, SLEEP, burst, mark, metronome, ticks

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

VM = "org.chdebugd1.VM"
EVENT = MessageId.EVENT.value


def kill_vm_process(daemon: Daemon, name: str, number: int = signal.SIGKILL) -> None:
    os.kill(vm_pids(daemon.runtime_dir)[name], number)


async def entries(daemon: Daemon, client: Client, kind: MessageId) -> list[dict[str, str]]:
    """All entries of that kind, once there are some."""
    await client.wait_for(lambda: bool(daemon.journal.entries(MESSAGE_ID=kind.value)))
    return daemon.journal.entries(MESSAGE_ID=kind.value)


def sequence(daemon: Daemon) -> list[int]:
    return [int(entry["SEQ"]) for entry in daemon.journal.entries(MESSAGE_ID=EVENT)]


def of_boot(daemon: Daemon, boot: str) -> list[int]:
    marks = daemon.journal.entries(MESSAGE_ID=EVENT, VM_BOOT=boot)
    return [int(entry["SEQ"]) for entry in marks]


@story
async def test_marks_made_while_no_daemon_ran_are_signalled_late(
    daemon: Daemon, client: Client
) -> None:
    path = await client.start_vm("busy", firmware=firmware(daemon, metronome(100)))

    daemon.stop(signal.SIGKILL)
    made = len(sequence(daemon)) + 100
    await client.wait_for(lambda: len(sequence(daemon)) >= made)
    await restarted(daemon, client)

    await client.wait_for(lambda: len(client.events(path)) >= made + 100)
    heard = sorted({event[0] for event in client.events(path)})  # the last ones may come again
    assert heard == list(range(1, len(heard) + 1))
    written = sequence(daemon)
    assert written == list(range(1, len(written) + 1))
    assert await client.get(path, "SkippedSignals") == 0
    assert await client.get(path, "State") == "running"


@story
async def test_a_vm_that_ended_while_no_daemon_ran_is_not_forgotten(
    daemon: Daemon, client: Client
) -> None:
    """Ticks, because a broker throws away what it had not read of a connection that was killed."""
    path = await client.start_vm("short", firmware=firmware(daemon, ticks(100)))
    daemon.stop(signal.SIGKILL)
    await client.wait_for(lambda: not vm_pids(daemon.runtime_dir))
    await restarted(daemon, client)

    assert await client.get(path, "State") == "stopped"
    assert await client.get(path, "Result") == "shutdown"
    assert await client.get(path, "EventCount") == 100
    assert await client.get(path, "BootCount") == 1
    heard = len(client.events(path))
    # A daemon that was killed could not say which of its signals the bus had: some count twice.
    assert 100 - heard <= await client.get(path, "SkippedSignals") <= 100
    await client.call(path, VM, "Start")
    await client.wait_state(path, "stopped")
    assert await client.get(path, "BootCount") == 2


@story
async def test_daemon_and_vm_process_that_die_together_leave_a_failed_vm(
    daemon: Daemon, client: Client
) -> None:
    path = await client.start_vm("both", firmware=firmware(daemon, mark(1, 2) + FOREVER))
    await client.wait_for(lambda: len(client.events(path)) == 2)
    await client.call(path, VM, "Pause")  # a change of state, with which counts are kept

    daemon.stop(signal.SIGKILL)
    kill_vm_process(daemon, "both")
    await restarted(daemon, client)

    assert await client.get(path, "State") == "failed"
    assert await client.get(path, "Result") == "process-died"
    assert await client.get(path, "EventCount") == 2
    [entry] = await entries(daemon, client, MessageId.VM_FAILED)
    assert entry["RESULT"] == "process-died"
    assert entry["VM_BOOT"] == await client.get(path, "BootID")
    [entry] = await entries(daemon, client, MessageId.RING_LOST)
    assert entry["VM_BOOT"] == await client.get(path, "BootID")
    await client.call(path, VM, "Start")
    await client.wait_for(lambda: len(client.events(path)) == 4)


@story
async def test_a_dead_vm_process_is_told_in_the_journal(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("dead", firmware=firmware(daemon, mark(1) + FOREVER))
    await client.wait_for(lambda: len(sequence(daemon)) == 1)

    kill_vm_process(daemon, "dead")

    await client.wait_state(path, "failed")
    [entry] = await entries(daemon, client, MessageId.VM_FAILED)
    assert (entry["VM"], entry["RESULT"]) == ("dead", "process-died")
    events = await client.call(path, VM, "GetEvents", "tu", 0, 10)
    assert [event[2] for event in events] == [1]


@story
async def test_what_a_dead_process_left_stays_apart_from_the_next_boot(
    daemon: Daemon, client: Client
) -> None:
    """journald does not read, so the VM is long started again when its end can be told."""
    daemon.journal.stop()
    path = await client.start_vm("again", firmware=firmware(daemon, burst(3000) + FOREVER))
    await client.wait_for(lambda: len(client.events(path)) == 3000)
    boot = await client.get(path, "BootID")
    kill_vm_process(daemon, "again")
    await client.wait_state(path, "failed")

    await client.call(path, VM, "Start")
    next_boot = await client.get(path, "BootID")
    daemon.journal.go()

    [failed] = await entries(daemon, client, MessageId.VM_FAILED)
    assert (failed["VM_BOOT"], failed["RESULT"], failed["EVENTS"]) == (boot, "process-died", "3000")
    assert "failed: The VM process was ended by signal 9 (Killed)" in failed["MESSAGE"]
    [recovered] = await entries(daemon, client, MessageId.RECOVERED)
    assert recovered["VM_BOOT"] == boot
    await client.wait_for(lambda: len(sequence(daemon)) >= 6000)
    assert of_boot(daemon, boot) == of_boot(daemon, next_boot) == list(range(1, 3001))


@story
async def test_a_stopped_vm_process_holds_up_nobody(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("hung", firmware=firmware(daemon, mark(1) + FOREVER))
    other = await client.start_vm("fine", firmware=firmware(daemon, mark(1) + FOREVER))
    kill_vm_process(daemon, "hung", signal.SIGSTOP)

    call = asyncio.create_task(client.call(path, VM, "Pause"))
    await client.call(other, VM, "Pause")
    assert await client.get(other, "State") == "paused"
    await client.call(*MANAGER, "ListVMs")
    with pytest.raises(ErrorReply, match=r"Error\.NotResponding"):
        await call

    kill_vm_process(daemon, "hung", signal.SIGCONT)
    await client.wait_state(path, "paused")
    await client.call(path, VM, "Resume")


@story
async def test_a_daemon_starts_beside_a_stopped_vm_process(daemon: Daemon, client: Client) -> None:
    """More often than the process has places for connections that wait."""
    path = await client.start_vm("hung", firmware=firmware(daemon, mark(1) + FOREVER))
    await client.wait_for(lambda: len(client.events(path)) == 1)
    kill_vm_process(daemon, "hung", signal.SIGSTOP)

    for _ in range(6):
        await restarted(daemon, client)
        assert await client.get(path, "State") == "running"
    with pytest.raises(ErrorReply, match=r"Error\.(NotResponding|WrongState)"):
        await client.call(path, VM, "Pause")

    kill_vm_process(daemon, "hung", signal.SIGCONT)

    async def resets() -> bool:
        try:
            await client.call(path, VM, "Reset")
        except ErrorReply:
            return False
        return True

    await client.wait_for(resets)
    await client.wait_for(lambda: len(client.events(path)) == 2)


@story
async def test_a_stopped_vm_process_can_be_killed(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("hung", firmware=firmware(daemon, mark(1) + FOREVER))
    kill_vm_process(daemon, "hung", signal.SIGSTOP)

    await client.call(path, VM, "Kill")

    assert await client.get(path, "State") == "stopped"
    assert await client.get(path, "Result") == "killed"
    assert vm_pids(daemon.runtime_dir) == {}


@story
async def test_a_vm_starts_again_right_after_its_end(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("again", firmware=firmware(daemon, mark(1) + SLEEP))

    for boots in range(2, 5):
        await client.call(path, VM, "Stop", "t", 0)
        await client.call(path, VM, "Start")
        assert await client.get(path, "BootCount") == boots


@story
async def test_a_name_is_free_right_after_remove(daemon: Daemon, client: Client) -> None:
    for _ in range(3):
        path = await client.start_vm("same", firmware=firmware(daemon, mark(1) + SLEEP))
        await client.call(path, VM, "Remove")

    await client.wait_for(lambda: vm_pids(daemon.runtime_dir) == {})
    assert await client.call(*MANAGER, "ListVMs") == []
    await client.wait_for(lambda: list((daemon.runtime_dir / "vm").iterdir()) == [])


@story
async def test_two_starts_at_once_are_one_start(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("twice", firmware=firmware(daemon, mark(1) + SHUTDOWN))
    await client.wait_state(path, "stopped")

    answers = await asyncio.gather(
        *(client.call(path, VM, "Start") for _ in range(4)), return_exceptions=True
    )

    assert [str(a) for a in answers if a is not None and "WrongState" not in str(a)] == []
    assert answers.count(None) == 1
    assert await client.get(path, "BootCount") == 2


@story
async def test_a_broken_record_costs_no_more_than_itself(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("good", firmware=firmware(daemon, mark(1) + SHUTDOWN))
    await client.wait_state(path, "stopped")
    records = daemon.runtime_dir / "vm"
    for name, text in {
        "torn": "{",
        "list": "[]",
        "empty": "{}",
        "mad": '{"status": {"state": "of mind"}, "counts": 7, "options": [1]}',
        "owned": '{"owner": "x", "boots_before": Infinity}',
        "..": "{}",
    }.items():
        (records / f"{name}.json").write_text(text)

    await restarted(daemon, client)

    vms = await client.call(*MANAGER, "ListVMs")
    assert [vm[:2] for vm in vms] == [["good", "stopped"]]


@pytest.mark.parametrize("moment", [0.02, 0.1])
def test_log_lines_come_once_when_a_vm_process_dies(daemon: Daemon, moment: float) -> None:
    count = 20_000

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        code = firmware(daemon, burst(count) + FOREVER)
        path = await client.start_vm("torn", firmware=code, log_file=Variant("s", "torn.log"))
        file = daemon.log_dir / "torn.log"
        await client.wait_for(lambda: file.stat().st_size > 0)
        await asyncio.sleep(moment)  # to die in the middle of it
        kill_vm_process(daemon, "torn")
        await client.wait_state(path, "failed")
        made = await client.get(path, "EventCount")
        await entries(daemon, client, MessageId.VM_FAILED)

        lines = file.read_text().splitlines()
        assert len(lines) == len(set(lines)) == made
        assert sorted(set(sequence(daemon))) == list(range(1, made + 1))

    told(daemon)


@story
async def test_a_process_that_waits_for_its_start_is_taken(daemon: Daemon, client: Client) -> None:
    """As `systemctl start chdebugd-vm@fw0` makes one, so that StartVM is quick."""
    ready, ready_fd = os.pipe()
    command = [sys.executable, "-m", "chdebugd.vm_entry", "fw0"]
    command += ["--runtime-dir", str(daemon.runtime_dir), "--ready-fd", str(ready_fd)]
    waiting = subprocess.Popen(  # noqa: ASYNC220 - forks, waits for nothing
        command, pass_fds=[ready_fd], cwd=ROOT
    )
    os.close(ready_fd)
    assert os.read(ready, 1) == b""  # closed: it listens
    os.close(ready)

    path = await client.start_vm("fw0", firmware=firmware(daemon, mark(0x40) + SLEEP))

    assert vm_pids(daemon.runtime_dir) == {"fw0": waiting.pid}
    await client.wait_for(lambda: len(client.events(path)) == 1)
    await client.call(path, VM, "Kill")
    await client.wait_state(path, "stopped")
    assert await asyncio.to_thread(waiting.wait) == 0


def test_a_ring_outlives_daemon_and_vm_process(daemon: Daemon, fd_store: FdStore) -> None:
    """journald does not read, so the marks are in the ring when both die."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        daemon.environment["NOTIFY_SOCKET"] = str(fd_store.path)
        await restarted(daemon, client)
        daemon.journal.stop()
        code = firmware(daemon, burst(3000) + FOREVER)
        path = await client.start_vm("kept", firmware=code, log_file=Variant("s", "kept.log"))
        await client.wait_for(lambda: len(client.events(path)) == 3000)
        await client.wait_for(lambda: "ring-kept" in fd_store.look())

        daemon.stop(signal.SIGKILL)
        kill_vm_process(daemon, "kept")
        fd_store.hand_back(daemon)
        daemon.start()
        daemon.journal.go()

        await entries(daemon, client, MessageId.VM_FAILED)
        assert sorted(set(sequence(daemon))) == list(range(1, 3001))
        lines = (daemon.log_dir / "kept.log").read_text().splitlines()
        assert len(lines) == len(set(lines)) == 3000
        assert not daemon.journal.entries(MESSAGE_ID=MessageId.RING_LOST.value)
        events = await client.call(path, VM, "GetEvents", "tu", 2990, 100)
        assert [event[0] for event in events] == list(range(2991, 3001))
        assert await client.get(path, "Result") == "process-died"
        assert await client.get(path, "BootCount") == 1
        await client.call(path, VM, "Remove")
        await client.wait_for(lambda: "ring-kept" not in fd_store.look())

    told(daemon)


def test_a_bus_that_dies_and_comes_back_finds_the_daemon_again(
    broker: Broker, daemon: Daemon
) -> None:
    """Under systemd the daemon ends and is started anew; without it waits for the bus."""

    @story
    async def before(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("on", firmware=firmware(daemon, mark(1) + SLEEP))
        await client.wait_for(lambda: len(client.events(path)) == 1)

    @story
    async def after(daemon: Daemon, client: Client) -> None:
        path = "/org/chdebugd1/vm/on"
        assert await client.get(path, "State") == "running"
        await client.call(path, VM, "Reset")
        await client.wait_for(lambda: len(client.events(path)) == 1)
        assert await client.get(path, "BootCount") == 2

    before(daemon)
    pids = vm_pids(daemon.runtime_dir)
    fds = daemon.fds
    broker.kill()
    broker.start()
    after(daemon)

    assert vm_pids(daemon.runtime_dir) == pids
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert daemon.fds <= fds


def test_a_daemon_that_waits_for_a_bus_stops_when_told(broker: Broker, daemon: Daemon) -> None:
    @story
    async def is_there(daemon: Daemon, client: Client) -> None:
        assert await client.call(*MANAGER, "ListVMs") == []

    is_there(daemon)
    broker.kill()
    deadline = time.monotonic() + TIMEOUT
    while "The bus hung up" not in daemon.messages.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)

    assert daemon.stop() == 0


@story
async def test_two_daemons_do_not_share_a_runtime_directory(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("mine", firmware=firmware(daemon, mark(1) + SLEEP))
    first, daemon.process = daemon.process, None

    daemon.start()

    second, daemon.process = daemon.process, first
    assert second is not None
    assert second.wait(TIMEOUT) == 1
    assert "Another chdebugd uses" in daemon.messages.read_text()
    await client.call(path, VM, "Pause")


@story
async def test_what_ran_under_other_limits_may_go_on_but_not_start_again(
    daemon: Daemon, client: Client
) -> None:
    memory = Variant("t", 64 << 20)
    code = firmware(daemon, mark(1) + SLEEP)
    path = await client.start_vm("big", firmware=code, memory=memory)
    daemon.config.write_text(f"[limits]\nmemory-per-vm = {32 << 20}\n")
    await restarted(daemon, client)

    assert (await client.get(path, "Options"))["memory"].value == 64 << 20
    await client.call(path, VM, "Stop", "t", 0)
    with pytest.raises(ErrorReply, match=rf"Error\.LimitExceeded.*{32 << 20}"):
        await client.call(path, VM, "Start")
    assert await client.get(path, "State") == "stopped"


@story
async def test_options_of_another_version_are_not_guessed(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("old", firmware=firmware(daemon, mark(1) + SHUTDOWN))
    await client.wait_state(path, "stopped")
    record = daemon.runtime_dir / "vm" / "old.json"

    def is_recorded() -> bool:
        return "stopped" in record.read_text()

    await client.wait_for(is_recorded)
    daemon.stop()
    record.write_text(record.read_text().replace('"firmware"', '"formware"'))
    daemon.start()

    async def is_refused() -> bool:
        with pytest.raises(ErrorReply, match=r"WrongState.*not known|ServiceUnknown") as error:
            await client.call(path, VM, "Start")
        return "not known" in error.value.text

    await client.wait_for(is_refused)


@story
async def test_after_a_reload_the_daemon_holds_the_new_log_file(
    daemon: Daemon, client: Client
) -> None:
    """It writes the last lines of a VM process that dies into it."""
    code = firmware(daemon, mark(1) + SLEEP)
    await client.start_vm("log", firmware=code, log_file=Variant("s", "x.log"))
    (daemon.log_dir / "x.log").rename(daemon.log_dir / "x.log.1")
    assert daemon.process is not None
    fds = Path(f"/proc/{daemon.process.pid}/fd")

    daemon.process.send_signal(signal.SIGHUP)

    def names() -> set[str]:
        links = set()
        for fd in fds.iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.add(Path(os.readlink(fd)).name)
        return links

    await client.wait_for(lambda: "x.log" in names() and "x.log.1" not in names())


DIES_AT_THE_START = """
import os, socket, sys
from chdebugd.control import Channel, Status
from chdebugd.trace.ring import Ring

listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
connection, _ = listener.accept()
hello = {"hello": Status().to_message(), "pid": os.getpid(), "keep": {}}
Channel(connection).send(hello, [Ring.create().fd, os.eventfd(0)])
connection.setblocking(True)
connection.recv(65536)
"""


@story
async def test_a_process_that_dies_at_its_start_leaves_an_ended_vm(
    daemon: Daemon, client: Client
) -> None:
    path = await client.start_vm("weak", firmware=firmware(daemon, mark(1) + SHUTDOWN))
    await client.wait_state(path, "stopped")
    await client.wait_for(lambda: not vm_pids(daemon.runtime_dir))
    command = [sys.executable, "-c", DIES_AT_THE_START, str(daemon.runtime_dir / "vm/weak/sock")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(  # noqa: ASYNC220 - forks, waits for nothing
        command, env=environment, stdout=subprocess.PIPE
    ) as weak:
        assert weak.stdout is not None
        weak.stdout.readline()
        with pytest.raises(ErrorReply, match=r"Error\.StartFailed"):
            await client.call(path, VM, "Start")

    assert await client.get(path, "State") == "failed"
    assert await client.get(path, "Result") == "start-failed"
    await client.call(path, VM, "Start")
    await client.wait_state(path, "stopped")
    await client.call(path, VM, "Remove")


@story
async def test_a_removed_vm_does_not_come_back_with_the_next_daemon(
    daemon: Daemon, client: Client
) -> None:
    """Its process still writes marks when the daemon is restarted."""
    daemon.journal.stop()
    path = await client.start_vm("gone", firmware=firmware(daemon, burst(2000) + SLEEP))
    await client.wait_for(lambda: len(client.events(path)) == 2000)
    await client.call(path, VM, "Remove")

    await restarted(daemon, client)

    assert await client.call(*MANAGER, "ListVMs") == []
    daemon.journal.go()
    await client.wait_for(lambda: not vm_pids(daemon.runtime_dir))
    assert sequence(daemon) == list(range(1, 2001))
    await client.wait_for(lambda: list((daemon.runtime_dir / "vm").iterdir()) == [])
