"""Machines with devices, through the daemon: what they are given, what they cost, how they end."""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
import struct
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import VM, Client, Daemon, ErrorReply, file_with, story, vm_pids
from tests.guests import RESET, SHUTDOWN, SLEEP, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

MEMORY = 64 << 20
SIZE_LIMIT = 30 << 20  # bytes of a VM process beside guest memory
N_SMALL_VMS = 50
DISK_SIZE = 1 << 20


def disk(path: Path, **more: Variant) -> dict[str, Variant]:
    return {"path": Variant("s", str(path)), **more}


def disks(*each: dict[str, Variant]) -> Variant:
    return Variant("aa{sv}", list(each))


def resident_beside_guest(pid: int, memory: int) -> int:
    """Bytes of a process in RAM, without the mapping that is the guest's memory."""
    total = 0
    for entry in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text()):
        if match := re.search(r"(?m)^Rss: +(\d+) kB", entry):
            start, end = (int(text, 16) for text in entry.split()[0].split("-"))
            total += int(match[1]) * 1024 if end - start != memory else 0
    return total


@story
async def test_a_vm_process_with_all_devices_stays_small(daemon: Daemon, client: Client) -> None:
    directory = daemon.runtime_dir.parent
    guest = file_with(directory, rom(mark(1) + SLEEP))
    images = [file_with(directory, bytes(DISK_SIZE), f"disk{at}") for at in range(4)]
    await client.start_vm(
        "fw0",
        firmware=Variant("s", str(guest)),
        memory=Variant("t", MEMORY),
        cpus=Variant("u", 4),
        disks=disks(*map(disk, images)),
        rng=Variant("b", True),
        serial=Variant("s", "journal"),
    )

    size = resident_beside_guest(vm_pids(daemon.runtime_dir)["fw0"], MEMORY)

    assert size < SIZE_LIMIT, size


@story
async def test_fifty_small_vms_make_each_its_own_marks(daemon: Daemon, client: Client) -> None:
    directory = daemon.runtime_dir.parent
    paths = {}
    for number in range(N_SMALL_VMS):
        guest = file_with(directory, rom(mark(number, number + 100) + SLEEP), f"guest{number}")
        paths[number] = await client.start_vm(
            f"small{number}", firmware=Variant("s", str(guest)), memory=Variant("t", 1 << 20)
        )
    await client.wait_for(lambda: all(len(client.events(path)) == 2 for path in paths.values()))

    for number, path in paths.items():
        assert [event[2] for event in client.events(path)] == [number, number + 100]
    for path in paths.values():
        await client.call(path, VM, "Kill")
    for path in paths.values():
        await client.wait_state(path, "stopped")


@story
async def test_one_image_is_not_written_by_two_vms(daemon: Daemon, client: Client) -> None:
    directory = daemon.runtime_dir.parent
    options = {
        "firmware": Variant("s", str(file_with(directory, rom(mark(1) + SLEEP)))),
        "disks": disks(disk(file_with(directory, bytes(DISK_SIZE), "disk"))),
    }
    path = await client.start_vm("first", **options)
    with pytest.raises(ErrorReply, match="InvalidImage.*in use"):
        await client.start_vm("second", **options)

    await client.call(path, VM, "Kill")
    await client.wait_state(path, "stopped")
    await client.start_vm("third", **options)


@story
async def test_readers_share_an_image(daemon: Daemon, client: Client) -> None:
    directory = daemon.runtime_dir.parent
    image = file_with(directory, bytes(DISK_SIZE), "disk")
    options = {
        "firmware": Variant("s", str(file_with(directory, rom(mark(1) + SLEEP)))),
        "disks": disks(disk(image, readonly=Variant("b", True))),
    }
    await client.start_vm("first", **options)
    await client.start_vm("second", **options)


@story
async def test_two_disks_have_two_ids(daemon: Daemon, client: Client) -> None:
    image = file_with(daemon.runtime_dir.parent, bytes(DISK_SIZE), "disk")
    same = [disk(image, id=Variant("s", "root"), readonly=Variant("b", True)) for _ in "ab"]

    with pytest.raises(ErrorReply, match=r"InvalidOption.*disks\[1\].id.*second time"):
        await client.start_vm("fw0", disks=disks(*same))


POWER_BUTTON = 1 << 8
OBEYS_POWER_BUTTON = (
    b"\xba\x12\x06"  # mov $0x612, %dx        PM1 enable
    b"\xb8" + struct.pack("<H", POWER_BUTTON) + b"\xef"  # mov $0x100, %ax; out %ax, %dx
    b"\xb0\x60"  # mov $0x60, %al
    b"\xe6\x80"  # out %al, $0x80
    b"\xba\x10\x06"  # mov $0x610, %dx        PM1 status
    b"\xed"  # 1: in %dx, %ax
    b"\xf6\xc4\x01"  # test $1, %ah
    b"\x74\xfa"  # jz 1b
    b"\xb0\x61"  # mov $0x61, %al
    b"\xe6\x80"  # out %al, $0x80
    b"\xba\x14\x06"  # mov $0x614, %dx        PM1 control
    b"\xb8\x00\x34"  # mov $0x3400, %ax       SLP_EN, type 5
    b"\xef"  # out %ax, %dx
    b"\xf4"  # hlt
)


@story
async def test_a_guest_obeys_its_power_button(daemon: Daemon, client: Client) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(OBEYS_POWER_BUTTON))
    path = await client.start_vm("fw0", firmware=Variant("s", str(guest)))
    await client.wait_for(lambda: len(client.events(path)) == 1)

    await client.call(path, VM, "Stop", "t", 60_000_000)

    await client.wait_state(path, "stopped")
    await client.wait_for(lambda: [event[2] for event in client.events(path)] == [0x60, 0x61])
    assert await client.get(path, "Result") in ("stopped", "shutdown")


@story
async def test_a_guest_that_resets_itself_at_its_power_button_has_stopped(
    daemon: Daemon, client: Client
) -> None:
    off = b"\xba\x14\x06\xb8\x00\x34\xef"
    code = OBEYS_POWER_BUTTON.replace(off, RESET)
    guest = file_with(daemon.runtime_dir.parent, rom(code))
    path = await client.start_vm("fw0", firmware=Variant("s", str(guest)))
    await client.wait_for(lambda: len(client.events(path)) == 1)

    await client.call(path, VM, "Stop", "t", 60_000_000)

    await client.wait_state(path, "stopped", "failed")
    assert await client.get(path, "State") == "stopped"
    assert await client.get(path, "Result") == "stopped"
    assert await client.get(path, "BootCount") == 1


@story
async def test_a_guest_that_ignores_its_power_button_is_switched_off(
    daemon: Daemon, client: Client
) -> None:
    ignores = OBEYS_POWER_BUTTON.replace(b"\xf6\xc4\x01", b"\xf6\xc4\x00")  # test $0, %ah
    guest = file_with(daemon.runtime_dir.parent, rom(ignores))
    path = await client.start_vm("fw0", firmware=Variant("s", str(guest)))
    await client.wait_for(lambda: len(client.events(path)) == 1)

    await client.call(path, VM, "Stop", "t", 200_000)

    await client.wait_state(path, "stopped")
    assert await client.get(path, "Result") == "stopped"


def states_signalled(client: Client, path: str) -> list[str]:
    changes = [m.body[1] for m in client.signals if m.path == path and m.body[0] == VM]
    return [change["State"].value for change in changes if "State" in change]


@story
async def test_each_step_of_a_life_is_told_once(daemon: Daemon, client: Client) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(mark(0x60) + RESET))
    path = await client.start_vm("fw0", firmware=Variant("s", str(guest)))
    await client.wait_for(lambda: len(client.events(path)) >= 3)
    await client.call(path, VM, "Kill")
    await client.wait_state(path, "stopped")
    journal = daemon.journal
    await client.wait_for(lambda: bool(journal.entries(STATE="stopped")))
    await client.wait_for(lambda: states_signalled(client, path)[-1:] == ["stopped"])

    told = [entry["STATE"] for entry in journal.entries(MESSAGE_ID=MessageId.VM_STATE.value)]
    boots = journal.entries(MESSAGE_ID=MessageId.VM_STARTED.value)
    marks = journal.entries(MESSAGE_ID=MessageId.EVENT.value)

    assert told[:4] == ["starting", "running", "starting", "running"]
    assert told[-1] == "stopped"
    assert all(one != other for one, other in itertools.pairwise(told))
    signalled = states_signalled(client, path)
    assert signalled == told[-len(signalled) :]
    assert len({boot["VM_BOOT"] for boot in boots}) == len(boots) >= 3
    starts = [int(boot["START_NSEC"]) for boot in boots]
    assert starts == sorted(set(starts))
    assert {entry["SEQ"] for entry in marks} == {"1"}
    assert len({entry["VM_BOOT"] for entry in marks}) == len(marks)


READS_THE_THIRD_SECTOR = (
    mark(0x20)
    + (
        b"\xba\xfd\x03"  # mov $0x3fd, %dx        when something was typed
        b"\xec"  # 1: in %dx, %al
        b"\xa8\x01"  # test $1, %al
        b"\x74\xfb"  # jz 1b
        b"\xb8\x01\x02"  # mov $0x201, %ax        read a sector
        b"\xb9\x03\x00"  # mov $3, %cx
        b"\xba\x80\x00"  # mov $0x80, %dx         of the first disk
        b"\xbb\x00\x80"  # mov $0x8000, %bx
        b"\xcd\x13"  # int $0x13
        b"\x0f\x92\xc0"  # setc %al
        b"\xe6\x80"  # out %al, $0x80
    )
)


@story
async def test_a_disk_that_the_host_cannot_serve_is_told(daemon: Daemon, client: Client) -> None:
    directory = daemon.runtime_dir.parent
    sector = (READS_THE_THIRD_SECTOR + SHUTDOWN).ljust(510, b"\0") + b"\x55\xaa"
    image = file_with(directory, sector + bytes(DISK_SIZE - len(sector)), "disk")
    path = await client.start_vm(
        "fw0",
        firmware=Variant("s", "/usr/share/seabios/bios.bin"),
        disks=disks(disk(image, id=Variant("s", "root"))),
        serial=Variant("s", "socket"),
    )
    await client.wait_for(lambda: len(client.events(path)) == 1)
    os.truncate(image, len(sector))
    with socket.socket(socket.AF_UNIX) as terminal:
        terminal.connect((await client.get(path, "Terminals"))["serial"])
        terminal.sendall(b"!")
        await client.wait_state(path, "stopped")

    failed = 1
    assert [event[2] for event in client.events(path)] == [0x20, failed]
    first, *_ = daemon.journal.entries(MESSAGE_ID=MessageId.DISK_ERROR.value)
    assert first["DEVICE"] == "disk-root"
    assert int(first["ERRNO"]) == errno.EIO
