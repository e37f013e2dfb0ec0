"""Firmware that nobody here wrote: SeaBIOS boots a disk, U-Boot comes to its prompt."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chdebugd.trace.ring import Ring
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from chdebugd.vmm.virtio.block import Disk
from tests.guests import SHUTDOWN, mark
from tests.kvm.conftest import drain

pytestmark = pytest.mark.kvm

SEABIOS = Path("/usr/share/seabios/bios.bin")
U_BOOT = Path("/usr/lib/u-boot/qemu-x86/u-boot.rom")
U_BOOT_CODES = list(bytes.fromhex("1e1f282aabb22b30b33140c0babb"))
TIMEOUT = 120  # seconds; software KVM takes 5
BIOS_AREA, BIOS_AREA_SIZE = 0xF0000, 0x10000


def boot_sector(code: bytes) -> bytes:
    return code.ljust(510, b"\xf4") + b"\x55\xaa"


@pytest.mark.parametrize(("mib", "n_cpus"), [(512, 4), (6144, 1)])
def test_seabios_boots_a_virtio_disk_and_places_the_acpi_tables(
    build: Callable[..., tuple[Machine, threading.Event]], ring: Ring, mib: int, n_cpus: int
) -> None:
    disk = os.memfd_create("disk")
    os.write(disk, boot_sector(mark(0x20, 0x21) + SHUTDOWN))
    os.truncate(disk, 1 << 20)
    text = bytearray()
    image = Image("firmware", str(SEABIOS), os.open(SEABIOS, os.O_RDONLY))
    machine, ended = build(
        image,
        memory=mib << 20,
        cpus=n_cpus,
        disks=(Disk(disk, "disk", "root"),),
        firmware_debug=text.extend,
    )
    machine.start()
    assert ended.wait(TIMEOUT), text.decode()
    events = drain(ring, [])

    assert machine.outcome is not None
    assert machine.outcome.result == Result.SHUTDOWN, text.decode()
    assert [event.code for event in events] == [0x20, 0x21]
    assert f"Found {n_cpus} cpu(s)" in text.decode()
    tables = read_tables(machine)
    assert set(tables) == {b"XSDT", b"FACP", b"APIC"}
    assert all(sum(table) & 0xFF == 0 for table in tables.values())
    assert tables[b"APIC"].count(b"\0\x08") >= n_cpus
    machine.close()
    os.close(disk)


def read_tables(machine: Machine) -> dict[bytes, bytes]:
    """What an operating system finds by a search of the BIOS area."""
    area = machine.memory.read(BIOS_AREA, BIOS_AREA_SIZE)
    at = area.index(b"RSD PTR ")
    assert at % 16 == 0
    (xsdt_address,) = struct.unpack_from("<Q", area, at + 24)
    xsdt = read_table(machine, xsdt_address)
    addresses = struct.unpack_from("<QQ", xsdt, 36)
    tables = [xsdt, *(read_table(machine, address) for address in addresses)]
    return {table[:4]: table for table in tables}


def read_table(machine: Machine, address: int) -> bytes:
    length = int.from_bytes(machine.memory.read(address + 4, 4), "little")
    return machine.memory.read(address, length)


class Terminal:
    """What came over the serial port, and how to wait for more."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._more = threading.Condition()

    def __call__(self, data: bytes) -> None:
        with self._more:
            self._text += data
            self._more.notify_all()

    def wait_for(self, text: bytes) -> None:
        with self._more:
            came = self._more.wait_for(lambda: text in self._text, TIMEOUT)
        assert came, self._text.decode(errors="replace")


def test_u_boot_writes_its_codes_and_takes_a_command(
    build: Callable[..., tuple[Machine, threading.Event]], ring: Ring
) -> None:
    terminal = Terminal()
    image = Image("firmware", str(U_BOOT), os.open(U_BOOT, os.O_RDONLY))
    machine, ended = build(image, memory=512 << 20, serial=terminal)
    machine.start()

    terminal.wait_for(b"Net:")  # the last line before it looks for a key, for two seconds
    machine.serial.receive(b" ")
    terminal.wait_for(b"=> ")
    codes = [event.code for event in drain(ring, [])]
    machine.serial.receive(b"reset\r")

    assert ended.wait(TIMEOUT)
    assert codes == U_BOOT_CODES
    assert machine.outcome is not None
    assert machine.outcome.result == Result.RESET
