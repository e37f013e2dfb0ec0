"""A VM's whole life on the bus, with real guests and the account of their marks."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import Client, Daemon, ErrorReply, firmware, story, vm_pids
from tests.guests import (
    CLI_HLT,
    FOREVER,
    RUN_FROM_NOWHERE,
    SHUTDOWN,
    SLEEP,
    TRIPLE_FAULT,
    burst,
    mark,
)

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

EVENT = "a1c7b8d2e0f74b7f9d5f3c6e80de0001"
STARTED = "a1c7b8d2e0f74b7f9d5f3c6e80de0002"
DEMO_CODES = [0x00, 0x01, 0x20, 0x21, 0x40, 0x41, 0x60, 0x61, 0x80, 0xFF]


def log_lines(daemon: Daemon, name: str) -> list[str]:
    return (daemon.log_dir / name).read_text().splitlines()


@story
async def test_the_demo_guest_closes_the_account(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("demo", log_file=Variant("s", "demo.log"))

    await client.wait_state(path, "stopped")
    await client.wait_for(lambda: len(client.events(path)) == 10)
    await client.wait_for(lambda: len(log_lines(daemon, "demo.log")) == 10)
    await client.wait_for(lambda: len(daemon.journal.entries(MESSAGE_ID=EVENT)) == 10)
    entries = daemon.journal.entries(MESSAGE_ID=EVENT)
    assert [int(e["CODE"], 16) for e in entries] == DEMO_CODES
    assert [event[2] for event in client.events(path)] == DEMO_CODES
    assert [int(e["ELAPSED_NSEC"]) for e in entries] == [e[1] for e in client.events(path)]
    assert await client.get(path, "EventCount") == 10
    assert await client.get(path, "Result") == "shutdown"


@story
async def test_an_entry_has_all_its_fields(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm(
        "fw0", firmware=firmware(daemon, mark(0x0A) + SHUTDOWN), log_file=Variant("s", "a.log")
    )
    boot = await client.get(path, "BootID")
    await client.wait_state(path, "stopped")
    await client.wait_for(lambda: bool(daemon.journal.entries(MESSAGE_ID=EVENT)))

    [entry] = daemon.journal.entries(MESSAGE_ID=EVENT)

    nsec = int(entry["ELAPSED_NSEC"])
    text = f"{nsec // 10**9}.{nsec // 1000 % 10**6:06d}"
    assert entry == {
        "MESSAGE_ID": EVENT,
        "SYSLOG_IDENTIFIER": "chdebugd",
        "PRIORITY": "7",
        "MESSAGE": f"[Debug I/O port: Firmware code 0xa] {text} seconds",
        "VM": "fw0",
        "VM_BOOT": boot,
        "COMPONENT": "Firmware",
        "CODE": "0xa",
        "ELAPSED": text,
        "ELAPSED_NSEC": str(nsec),
        "SEQ": "1",
        "VCPU": "0",
    }
    [line] = log_lines(daemon, "a.log")
    assert line.startswith("chdebugd: ")
    assert line.endswith(f"ms: DEBUG:vmm/debug_port -- {entry['MESSAGE']}")


@story
async def test_the_start_entry_says_when_it_was_asked_for(daemon: Daemon, client: Client) -> None:
    guest = firmware(daemon, mark(0x40) + SLEEP)
    path = await client.start_vm("fw0", firmware=guest, code_map=Variant("s", "cloud-hypervisor"))
    await client.call(path, "org.chdebugd1.VM", "Reset")
    await client.wait_for(lambda: len(daemon.journal.entries(MESSAGE_ID=STARTED)) == 2)

    first, second = daemon.journal.entries(MESSAGE_ID=STARTED)

    assert int(first["REQUESTED_NSEC"]) < int(first["START_NSEC"]) < int(second["START_NSEC"])
    assert int(second["START_NSEC"]) // 1000 == await client.get(path, "StartTimestampMonotonic")
    assert first["CODE_MAP"] == second["CODE_MAP"] == "cloud-hypervisor"
    assert "REQUESTED_NSEC" not in second  # nobody asked for the reset's boot


@story
async def test_a_burst_beyond_the_ring_reaches_all_sinks(daemon: Daemon, client: Client) -> None:
    count = 100_000
    path = await client.start_vm(
        "burst",
        firmware=firmware(daemon, burst(count) + SHUTDOWN),
        log_file=Variant("s", "burst.log"),
    )
    entries: list[dict[str, str]] = []

    def account_is_closed() -> bool:
        entries[:] = daemon.journal.entries(MESSAGE_ID=EVENT)
        return len(entries) == count

    await client.wait_for(account_is_closed)
    await client.wait_state(path, "stopped")

    async def all_signalled() -> bool:
        skipped = await client.get(path, "SkippedSignals")
        return len(client.events(path)) + int(skipped) == count

    await client.wait_for(all_signalled)
    assert [int(e["SEQ"]) for e in entries] == list(range(1, count + 1))
    assert len(log_lines(daemon, "burst.log")) == count
    assert await client.get(path, "DroppedEvents") == 0
    seqs = [event[0] for event in client.events(path)]
    assert seqs == sorted(set(seqs))


@pytest.mark.parametrize(
    ("guest", "state", "result"),
    [
        (SHUTDOWN, "stopped", "shutdown"),
        (CLI_HLT, "stopped", "halted"),
        (TRIPLE_FAULT, "failed", "triple-fault"),
        (RUN_FROM_NOWHERE, "failed", "internal-error"),
    ],
    ids=["shutdown", "halt", "triple-fault", "internal-error"],
)
def test_how_a_vm_ends(daemon: Daemon, guest: bytes, state: str, result: str) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm("guest", firmware=firmware(daemon, guest))
        await client.wait_state(path, "stopped", "failed")
        assert await client.get(path, "State") == state
        assert await client.get(path, "Result") == result
        await client.wait_for(lambda: bool(daemon.journal.entries(RESULT=result)))
        [entry] = daemon.journal.entries(RESULT=result)
        if result == "internal-error":
            assert entry["GUEST_RIP"] == "0xd0000000"

    told(daemon)


@story
async def test_a_reset_begins_a_new_boot(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("r", firmware=firmware(daemon, mark(1, 2) + SLEEP))
    await client.wait_for(lambda: len(client.events(path)) == 2)
    first = await client.get(path, "BootID")

    await client.call(path, "org.chdebugd1.VM", "Reset")
    await client.wait_for(lambda: len(client.events(path)) == 4)
    await client.wait_state(path, "running")

    assert [event[0] for event in client.events(path)] == [1, 2, 1, 2]
    assert await client.get(path, "BootCount") == 2
    assert await client.get(path, "BootID") != first


@story
async def test_pause_resume_stop_and_start_again(daemon: Daemon, client: Client) -> None:
    vm = "org.chdebugd1.VM"
    path = await client.start_vm("life", firmware=firmware(daemon, mark(9) + FOREVER))
    await client.wait_for(lambda: len(client.events(path)) == 1)

    await client.call(path, vm, "Pause")
    assert await client.get(path, "State") == "paused"
    with pytest.raises(ErrorReply, match=r"WrongState"):
        await client.call(path, vm, "Pause")
    await client.call(path, vm, "Resume")
    assert await client.get(path, "State") == "running"
    await client.call(path, vm, "Stop", "t", 1_000_000)
    assert await client.get(path, "State") == "stopped"
    await client.wait_for(lambda: not vm_pids(daemon.runtime_dir))

    await client.call(path, vm, "Start")
    await client.wait_for(lambda: len(client.events(path)) == 2)
    assert await client.get(path, "BootCount") == 2
    await client.call(path, vm, "Kill")
    assert await client.get(path, "Result") == "killed"
    await client.call(path, vm, "Remove")
    with pytest.raises(ErrorReply, match=r"UnknownObject"):
        await client.get(path, "State")


@story
async def test_get_events_fills_a_gap(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("gap", firmware=firmware(daemon, mark(*range(20)) + SLEEP))
    await client.wait_for(lambda: len(client.events(path)) == 20)

    events = await client.call(path, "org.chdebugd1.VM", "GetEvents", "tu", 5, 3)

    assert [(e[0], e[2], e[3], e[4]["vcpu"].value) for e in events] == [
        (6, 5, "Firmware", 0),
        (7, 6, "Firmware", 0),
        (8, 7, "Firmware", 0),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_guest_outlives_the_daemon(daemon: Daemon, number: int) -> None:
    @story
    async def before(daemon: Daemon, client: Client) -> None:
        path = await client.start_vm(
            "long", firmware=firmware(daemon, mark(1) + FOREVER), log_file=Variant("s", "l")
        )
        await client.wait_for(lambda: len(client.events(path)) == 1)

    @story
    async def after(daemon: Daemon, client: Client) -> None:
        path = "/org/chdebugd1/vm/long"
        assert await client.get(path, "State") == "running"
        assert await client.get(path, "EventCount") == 1
        assert (await client.get(path, "Options"))["log-file"].value == "l"
        await client.call(path, "org.chdebugd1.VM", "Reset")

        async def marked_again() -> bool:
            return bool(await client.get(path, "EventCount") == 2 and client.events(path))

        await client.wait_for(marked_again)
        heard = [event[0] for event in client.events(path)]
        assert heard == [1] or (heard == [1, 1] and number == signal.SIGKILL)

    before(daemon)
    pids = vm_pids(daemon.runtime_dir)
    daemon.stop(number)
    daemon.start()
    after(daemon)

    assert vm_pids(daemon.runtime_dir) == pids


@story
async def test_the_marks_of_a_killed_vm_process_are_not_lost(
    daemon: Daemon, client: Client
) -> None:
    """journald does not read, so the marks are in the ring when the process dies."""
    daemon.journal.stop()
    path = await client.start_vm(
        "dead", firmware=firmware(daemon, burst(3000) + FOREVER), log_file=Variant("s", "dead.log")
    )
    await client.wait_for(lambda: len(client.events(path)) == 3000)

    os.kill(vm_pids(daemon.runtime_dir)["dead"], signal.SIGKILL)
    await client.wait_state(path, "failed")
    daemon.journal.go()

    assert await client.get(path, "Result") == "process-died"
    await client.wait_for(lambda: len(daemon.journal.entries(MESSAGE_ID=EVENT)) == 3000)
    entries = daemon.journal.entries(MESSAGE_ID=EVENT)
    assert [int(entry["SEQ"]) for entry in entries] == list(range(1, 3001))
    await client.wait_for(lambda: len(log_lines(daemon, "dead.log")) == 3000)


@story
async def test_a_vm_whose_process_dies_while_it_is_removed_is_removed(
    daemon: Daemon, client: Client
) -> None:
    path = await client.start_vm("r", firmware=firmware(daemon, mark(0x40) + SLEEP))
    pid = vm_pids(daemon.runtime_dir)["r"]
    os.kill(pid, signal.SIGSTOP)
    removal = asyncio.create_task(client.call(path, "org.chdebugd1.VM", "Remove"))
    for _ in range(3):  # the request waits for the process by then
        await client.call("/org/chdebugd1", "org.chdebugd1.Manager", "ListVMs")

    os.kill(pid, signal.SIGKILL)

    await removal
    assert await client.call("/org/chdebugd1", "org.chdebugd1.Manager", "ListVMs") == []


@story
async def test_text_of_a_firmware_reaches_journal_and_file(daemon: Daemon, client: Client) -> None:
    text = b"".join(
        b"\xba\x02\x04"  # mov $0x402, %dx
        + bytes([0xB0, byte])  # mov $byte, %al
        + b"\xee"  # out %al, %dx
        for byte in b"hello\nrest"
    )
    option = Variant("s", "journal")
    path = await client.start_vm(
        "text", firmware=firmware(daemon, text + SHUTDOWN), firmware_debug=option
    )
    await client.wait_state(path, "stopped")

    await client.wait_for(lambda: len(daemon.journal.entries(PORT="firmware-debug")) == 2)

    lines = [entry["MESSAGE"] for entry in daemon.journal.entries(PORT="firmware-debug")]
    assert lines == ["hello", "rest"]


@story
async def test_the_log_file_is_reopened_on_reload(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm(
        "rotate", firmware=firmware(daemon, mark(1) + SLEEP), log_file=Variant("s", "x.log")
    )
    await client.wait_for(lambda: len(log_lines(daemon, "x.log")) == 1)
    (daemon.log_dir / "x.log").rename(daemon.log_dir / "x.log.1")

    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    await client.wait_for((daemon.log_dir / "x.log").exists)
    await client.call(path, "org.chdebugd1.VM", "Reset")

    await client.wait_for(lambda: len(log_lines(daemon, "x.log")) == 1)
    assert len(log_lines(daemon, "x.log.1")) == 1


@story
async def test_a_code_map_names_the_codes(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm(
        "named",
        firmware=firmware(daemon, mark(0x40) + SHUTDOWN),
        code_map=Variant("s", "cloud-hypervisor"),
    )
    await client.wait_for(lambda: len(client.events(path)) == 1)

    assert client.events(path)[0][4]["name"].value == "kernel-start"
    await client.wait_for(lambda: bool(daemon.journal.entries(MESSAGE_ID=EVENT)))
    assert daemon.journal.entries(MESSAGE_ID=EVENT)[0]["CODE_NAME"] == "kernel-start"
