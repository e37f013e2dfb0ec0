"""The ACPI tables, read back by the reference disassembler and by their own checksums."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from chdebugd.vmm.boot import acpi, aml
from chdebugd.vmm.layout import ACPI_ADDRESS, ACPI_END

ADDRESS = 0xE0040
COMPLAINT = re.compile(r"error|warning|invalid|unknown|remark", re.IGNORECASE)


def tables(n_cpus: int) -> dict[str, bytes]:
    built = acpi.build(n_cpus, ADDRESS)
    found = {"FACS": built.image[:64]}
    for offset, size in built.summed:
        found[built.image[offset : offset + 4].decode()] = built.image[offset : offset + size]
    return found


def disassemble(directory: Path, name: str, table: bytes) -> str:
    """The source that iasl makes of `table`; what it complains of fails the test."""
    path = directory / f"{name}.dat"
    path.write_bytes(table)
    done = subprocess.run(["iasl", "-d", str(path)], capture_output=True, text=True, check=True)
    source = path.with_suffix(".dsl").read_text()
    assert not COMPLAINT.search(done.stdout + done.stderr)
    return source


@pytest.mark.parametrize("name", ["APIC", "DSDT", "FACP", "FACS", "XSDT"])
@pytest.mark.parametrize("n_cpus", [1, 16, 300])
def test_iasl_reads_every_table(tmp_path: Path, name: str, n_cpus: int) -> None:
    source = disassemble(tmp_path, name, tables(n_cpus)[name])

    assert f'"{name}"' in source
    assert not re.search("unknown|invalid", source, re.IGNORECASE)


def test_iasl_compiles_the_dsdt_that_it_disassembled_to_the_same_bytes(tmp_path: Path) -> None:
    dsdt = tables(4)["DSDT"]
    disassemble(tmp_path, "DSDT", dsdt)
    command = ["iasl", "-p", "again", "DSDT.dsl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert "0 Errors, 0 Warnings" in done.stdout + done.stderr
    again = (tmp_path / "again.aml").read_bytes()
    assert again[36:] == dsdt[36:]


def test_every_checksum_is_right() -> None:
    built = acpi.build(16, ADDRESS)

    assert sum(built.rsdp[:20]) & 0xFF == 0
    assert sum(built.rsdp) & 0xFF == 0
    for offset, size in built.summed:
        assert sum(built.image[offset : offset + size]) & 0xFF == 0


def test_the_pointers_lead_from_the_rsdp_to_the_dsdt() -> None:
    built = acpi.build(2, ADDRESS)

    def follow(address: int) -> bytes:
        at = address - ADDRESS
        return built.image[at : at + int.from_bytes(built.image[at + 4 : at + 8], "little")]

    xsdt = follow(*struct.unpack_from("<Q", built.rsdp, 24))
    fadt, madt = (follow(address) for address in struct.unpack_from("<QQ", xsdt, 36))
    assert (xsdt[:4], fadt[:4], madt[:4]) == (b"XSDT", b"FACP", b"APIC")
    assert follow(*struct.unpack_from("<I", fadt, 36))[:4] == b"FACS"
    assert follow(*struct.unpack_from("<I", fadt, 40))[:4] == b"DSDT"
    assert follow(*struct.unpack_from("<Q", fadt, 140))[:4] == b"DSDT"


def test_the_listed_pointers_are_all_that_moving_the_tables_needs() -> None:
    here, there = acpi.build(2, 0), acpi.build(2, 0x7FE0_0000)
    moved = bytearray(here.image)
    for offset, size in here.pointers:
        value = int.from_bytes(moved[offset : offset + size], "little") + 0x7FE0_0000
        moved[offset : offset + size] = value.to_bytes(size, "little")
    for offset, size in here.summed:
        table = moved[offset : offset + size]
        moved[offset + acpi.CHECKSUM_AT] = moved[offset + acpi.CHECKSUM_AT] - sum(table) & 0xFF

    assert bytes(moved) == there.image


def test_the_madt_names_every_cpu(tmp_path: Path) -> None:
    source = disassemble(tmp_path, "APIC", tables(300)["APIC"])

    assert source.count("[Processor Local APIC]") == 255
    assert source.count("[Processor Local x2APIC]") == 45


def test_the_tables_of_the_largest_machine_fit_their_place() -> None:
    assert len(acpi.build(1024, ADDRESS).image) < ACPI_END - ACPI_ADDRESS - acpi.TABLE_STEP


@pytest.mark.parametrize("size", [1, 62, 63, 4093, 4094, 70_000])
def test_a_package_length_counts_itself(size: int) -> None:
    encoded = aml.scope("_SB", bytes(size))[1:]
    extra = encoded[0] >> 6

    length = encoded[0] & 0x3F
    if extra:
        length = encoded[0] & 0xF | int.from_bytes(encoded[1 : 1 + extra], "little") << 4
    assert length == len(encoded)
