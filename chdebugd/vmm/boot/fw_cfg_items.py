"""What flat firmware learns by the firmware configuration device: CPUs, memory, ACPI tables.

Such firmware keeps its own memory map, so it places the tables itself, by a list of commands
(SeaBIOS, src/fw/romfile_loader.h).
"""

from __future__ import annotations

import struct
from enum import IntEnum

from chdebugd.vmm.boot import acpi
from chdebugd.vmm.boot.e820 import RAM, ram_ranges
from chdebugd.vmm.devices.fw_cfg import Items


class Key(IntEnum):
    """Fixed selectors (QEMU's standard-headers/linux/qemu_fw_cfg.h)."""

    SIGNATURE = 0x00
    REVISION = 0x01
    N_CPUS = 0x05
    MAX_CPUS = 0x0F
    DIRECTORY = 0x19
    FIRST_FILE = 0x20
    PIT_ON_PIN_2 = 0x8002


TRADITIONAL = 1  # revision bit: the two ports, no DMA
NAME_SIZE = 56
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
COMMAND_SIZE = 128
HIGH_MEMORY, BIOS_AREA = 1, 2
TABLES, RSDP = "etc/acpi/tables", "etc/acpi/rsdp"


def _name(text: str) -> bytes:
    return text.encode().ljust(NAME_SIZE, b"\0")


def _command(number: int, *fields: bytes) -> bytes:
    return (struct.pack("<I", number) + b"".join(fields)).ljust(COMMAND_SIZE, b"\0")


def _allocate(name: str, align: int, zone: int) -> bytes:
    return _command(ALLOCATE, _name(name), struct.pack("<IB", align, zone))


def _add_pointer(holder: str, offset: int, size: int) -> bytes:
    return _command(ADD_POINTER, _name(holder), _name(TABLES), struct.pack("<IB", offset, size))


def _add_checksum(name: str, offset: int, start: int, length: int) -> bytes:
    return _command(ADD_CHECKSUM, _name(name), struct.pack("<III", offset, start, length))


def _load_commands(tables: acpi.Tables) -> bytes:
    commands = [_allocate(TABLES, acpi.TABLE_STEP, HIGH_MEMORY), _allocate(RSDP, 16, BIOS_AREA)]
    commands += [_add_pointer(TABLES, offset, size) for offset, size in tables.pointers]
    commands += [
        _add_checksum(TABLES, offset + acpi.CHECKSUM_AT, offset, size)
        for offset, size in tables.summed
    ]
    commands.append(_add_pointer(RSDP, acpi.RSDP_XSDT, 8))
    commands += [_add_checksum(RSDP, at, 0, length) for at, length in acpi.RSDP_CHECKSUMS]
    return b"".join(commands)


def _without_sums(data: bytes, places: list[int]) -> bytes:
    """U-Boot sums the old checksum up with the rest; zeros suit all."""
    cleared = bytearray(data)
    for at in places:
        cleared[at] = 0
    return bytes(cleared)


def make_items(memory_size: int, n_cpus: int) -> Items:
    """All items of a machine."""
    tables = acpi.build(n_cpus, 0)
    files = {
        "etc/e820": b"".join(
            struct.pack("<QQI", start, size, RAM) for start, size in ram_ranges(memory_size)
        ),
        "etc/show-boot-menu": struct.pack("<H", 0),  # nobody is there to choose
        "etc/table-loader": _load_commands(tables),
        RSDP: _without_sums(tables.rsdp, [at for at, _ in acpi.RSDP_CHECKSUMS]),
        TABLES: _without_sums(
            tables.image, [offset + acpi.CHECKSUM_AT for offset, _ in tables.summed]
        ),
    }
    directory = struct.pack(">I", len(files))
    items: Items = {
        Key.SIGNATURE: b"QEMU",
        Key.REVISION: struct.pack("<I", TRADITIONAL),
        Key.N_CPUS: struct.pack("<H", n_cpus),
        Key.MAX_CPUS: struct.pack("<H", n_cpus),
        Key.PIT_ON_PIN_2: b"\1",
    }
    for key, (name, data) in enumerate(files.items(), Key.FIRST_FILE):
        directory += struct.pack(">IHH", len(data), key, 0) + _name(name)
        items[key] = data
    items[Key.DIRECTORY] = directory
    return items
