"""The ACPI tables (ACPI 6.5, chapter 5) that tell an operating system what this machine is.

    RSDP → XSDT → FADT → FACS, DSDT
                → MADT

The machine is a classic one, not hardware-reduced: its power button, PM timer and soft-off are
fixed features, always in ACPI mode.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from chdebugd.vmm import layout
from chdebugd.vmm.boot import aml
from chdebugd.vmm.devices.power import PM_TIMER_SIZE, Pm1, SleepPort
from chdebugd.vmm.memory import GuestMemory

HEADER_SIZE, CHECKSUM_AT = 36, 9
FADT_SIZE, FADT_FACS, FADT_DSDT, FADT_X_DSDT = 276, 36, 40, 140  # bytes, and offsets of pointers
RSDP_XSDT = 24
RSDP_CHECKSUMS = ((8, 20), (32, 36))  # where each is, and how many bytes it covers
TABLE_STEP = 64
OEM = b"CHDBGD"
CREATOR = b"CHDB"
SYSTEM_IO = 1  # address space of a generic address structure (5.2.3.2)
BYTE, WORD, DWORD = 1, 2, 3  # its access sizes

# FADT flags (table 5.10). No bit for the power button: it is a fixed feature.
WBINVD, C1, NO_SLEEP_BUTTON, NO_RTC_WAKE = 1 << 0, 1 << 2, 1 << 5, 1 << 6
TIMER_32_BITS, RESET_REGISTER = 1 << 8, 1 << 10
# Boot architecture flags (table 5.11). No bit for the keyboard: nobody types on it.
LEGACY_DEVICES, NO_VGA, NO_ASPM = 1 << 0, 1 << 2, 1 << 4
NO_C2, NO_C3 = 101, 1001  # microseconds; more than 100 and 1000 say that there is none

# MADT (5.2.12).
PC_AT = 1  # a PIC is there too
ENABLED = 1
LEVEL_HIGH = 0x000D  # MPS INTI flags (table 5.26)
CONFORMS = 0
ALL_CPUS = 0xFF
X2APIC_FROM = 255  # ids that a local APIC entry cannot name


class Tables(NamedTuple):
    """One machine's tables. The RSDP stands alone, because it must lie where it is searched for."""

    rsdp: bytes
    image: bytes
    """All the others, with pointers for the address they were built for."""
    pointers: tuple[tuple[int, int], ...]
    """Offset and size of each pointer in the image, for firmware that moves it."""
    summed: tuple[tuple[int, int], ...]
    """Offset and size of each table in the image that has a checksum."""


def checksum(data: bytes) -> int:
    """The byte that makes the sum of all zero."""
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    length = HEADER_SIZE + len(body)
    header = struct.pack("<4sIBB6s8sI4sI", signature, length, revision, 0, OEM, OEM, 1, CREATOR, 1)
    table = bytearray(header + body)
    table[CHECKSUM_AT] = checksum(table)
    return bytes(table)


def build(n_cpus: int, address: int) -> Tables:
    """The tables of a machine with `n_cpus`; all but the RSDP are to lie at `address`."""
    facs, dsdt, madt = _facs(), _dsdt(), _madt(n_cpus)
    # The FACS wants an address that is a multiple of 64; all get one.
    at_facs, at_dsdt, at_madt, at_fadt, at_xsdt = _places(
        address, len(facs), len(dsdt), len(madt), FADT_SIZE
    )
    fadt = _fadt(facs=at_facs, dsdt=at_dsdt)
    xsdt = _table(b"XSDT", 1, struct.pack("<QQ", at_fadt, at_madt))
    places = ((at_dsdt, dsdt), (at_madt, madt), (at_fadt, fadt), (at_xsdt, xsdt))
    image = bytearray(at_xsdt + len(xsdt) - address)
    for at, table in ((at_facs, facs), *places):
        image[at - address : at - address + len(table)] = table
    fadt_at, xsdt_at = at_fadt - address, at_xsdt - address
    return Tables(
        rsdp=_rsdp(at_xsdt),
        image=bytes(image),
        pointers=(
            (fadt_at + FADT_FACS, 4),
            (fadt_at + FADT_DSDT, 4),
            (fadt_at + FADT_X_DSDT, 8),
            (xsdt_at + HEADER_SIZE, 8),
            (xsdt_at + HEADER_SIZE + 8, 8),
        ),
        summed=tuple((at - address, len(table)) for at, table in places),
    )


def load_tables(memory: GuestMemory, n_cpus: int) -> int:
    """Put the tables where an operating system looks for them; returns the RSDP's address."""
    address = layout.ACPI_ADDRESS
    tables = build(n_cpus, address + TABLE_STEP)
    memory.write(address, tables.rsdp.ljust(TABLE_STEP, b"\0") + tables.image)
    return address


def _places(address: int, *sizes: int) -> list[int]:
    """Where tables of `sizes` begin, and where the next would."""
    places = [address]
    for size in sizes:
        places.append(places[-1] + size + TABLE_STEP - 1 & -TABLE_STEP)
    return places


def _rsdp(xsdt: int) -> bytes:
    """Revision 2, with two checksums (5.2.5.3); no RSDT beside the XSDT."""
    data = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM, 2, 0, 36, xsdt, 0))
    for at, length in RSDP_CHECKSUMS:
        data[at] = checksum(data[:length])
    return bytes(data)


def _facs() -> bytes:
    """Nothing wakes this machine, but a table must be there (5.2.10)."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2)


def _io(port: int, bits: int, access: int) -> bytes:
    """A generic address structure; port 0 is none."""
    return struct.pack("<BBBBQ", SYSTEM_IO, bits, 0, access, port) if port else bytes(12)


def _fadt(facs: int, dsdt: int) -> bytes:
    """FADT, revision 6 (5.2.9)."""
    event, control = layout.PM1_EVENT_PORT, layout.PM1_CONTROL_PORT
    timer = layout.PM_TIMER_PORT
    flags = WBINVD | C1 | NO_SLEEP_BUTTON | NO_RTC_WAKE | TIMER_32_BITS | RESET_REGISTER
    body = struct.pack("<IIxBHIBBBB", facs, dsdt, 0, layout.SCI_GSI, 0, 0, 0, 0, 0)
    body += struct.pack("<8I", event, 0, control, 0, 0, timer, 0, 0)
    body += struct.pack("<BBBBBBBB", Pm1.EVENT_SIZE, Pm1.CONTROL_SIZE, 0, PM_TIMER_SIZE, 0, 0, 0, 0)
    body += struct.pack("<HHHHBBBBB", NO_C2, NO_C3, 0, 0, 0, 0, 0, 0, layout.RTC_CENTURY)
    body += struct.pack("<HxI", LEGACY_DEVICES | NO_VGA | NO_ASPM, flags)
    body += _io(layout.SLEEP_PORT, 8, BYTE) + struct.pack("<BHB", SleepPort.RESET, 0, 3)
    body += struct.pack("<QQ", 0, dsdt)
    for port, bits, access in (
        (event, 8 * Pm1.EVENT_SIZE, WORD),
        (0, 0, 0),
        (control, 8 * Pm1.CONTROL_SIZE, WORD),
        (0, 0, 0),
        (0, 0, 0),
        (timer, 8 * PM_TIMER_SIZE, DWORD),
        (0, 0, 0),
        (0, 0, 0),
        (0, 0, 0),  # sleep control and status are for hardware-reduced machines only
        (0, 0, 0),
    ):
        body += _io(port, bits, access)
    body += b"chdebugd"  # hypervisor vendor
    assert HEADER_SIZE + len(body) == FADT_SIZE
    return _table(b"FACP", 6, body)


def _madt(n_cpus: int) -> bytes:
    body = struct.pack("<II", layout.LAPIC_ADDRESS, PC_AT)
    for index in range(n_cpus):
        if index < X2APIC_FROM:
            body += struct.pack("<BBBBI", 0, 8, index, index, ENABLED)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, index, ENABLED, index)
    body += struct.pack("<BBBBII", 1, 12, layout.IOAPIC_ID, 0, layout.IOAPIC_ADDRESS, 0)
    body += _override(0, layout.PIT_GSI, CONFORMS)
    for gsi in (layout.SCI_GSI, *layout.PCI_GSIS):
        body += _override(gsi, gsi, LEVEL_HIGH)
    body += struct.pack("<BBBHB", 4, 6, ALL_CPUS, CONFORMS, 1)  # LINT1 is NMI
    return _table(b"APIC", 5, body)


def _override(isa_irq: int, gsi: int, flags: int) -> bytes:
    """An interrupt source override (5.2.12.5)."""
    return struct.pack("<BBBBIH", 2, 10, 0, isa_irq, gsi, flags)


def _dsdt() -> bytes:
    soft_off = aml.integer(SleepPort.SOFT_OFF_TYPE)
    body = aml.scope("_SB", _pci_root(), _com1())
    body += aml.name("_S5", aml.package(soft_off, soft_off, aml.integer(0), aml.integer(0)))
    return _table(b"DSDT", 2, body)


def _pci_root() -> bytes:
    routes = (
        aml.package(
            aml.integer(slot << 16 | 0xFFFF),
            aml.integer(0),  # pin INTA
            aml.integer(0),  # no link device: the next is a GSI
            aml.integer(layout.pci_gsi(slot)),
        )
        for slot in range(1, layout.PCI_SLOTS)
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name(
            "_CRS",
            aml.resources(
                aml.address_space(aml.BUS, 0, 1, size=2),
                aml.io_ports(layout.PCI_ADDRESS_PORT, 8),
                aml.address_space(aml.IO, 0, layout.PCI_ADDRESS_PORT, size=2),
                aml.address_space(aml.IO, layout.PCI_ADDRESS_PORT + 8, 0x10000, size=2),
                aml.address_space(
                    aml.MEMORY, layout.PCI_WINDOW_START, layout.PCI_WINDOW_END, size=4
                ),
            ),
        ),
        aml.name("_PRT", aml.package(*routes)),
    )


def _com1() -> bytes:
    return aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(1)),
        aml.name(
            "_CRS",
            aml.resources(aml.io_ports(layout.COM1_PORT, 8), aml.irq(layout.COM1_GSI)),
        ),
    )
