"""Firmware that nobody here wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from container.container import Container

from tests.system.conftest import call_vm, wait_for

pytestmark = pytest.mark.kvm

U_BOOT = "/usr/lib/u-boot/qemu-x86/u-boot.rom"
SEABIOS = ("bios.bin", "bios-microvm.bin")
FIRST = 4  # codes of U-Boot that come before it looks at any device
PATIENCE = 60  # seconds


@pytest.fixture
def qemu_codes(tmp_path: Path) -> Iterator[Path]:
    """The bytes that U-Boot writes to port 0x80 of QEMU, as they come."""
    log = tmp_path / "codes"
    command = [
        "qemu-system-x86_64",
        "-M",
        "q35",
        "-accel",
        "kvm",
        "-display",
        "none",
        "-nodefaults",
    ]
    command += ["-bios", U_BOOT, "-chardev", f"file,id=codes,path={log}"]
    command += ["-device", "isa-debugcon,iobase=0x80,chardev=codes"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as qemu:
        yield log
        qemu.kill()


def test_u_boot_makes_the_marks_that_it_makes_in_qemu(
    container: Container, qemu_codes: Path
) -> None:
    container.start_vm("fw0", ("firmware", "s", U_BOOT))
    wait_for(lambda: len(container.marks("fw0")) > FIRST)
    wait_for(lambda: qemu_codes.exists() and qemu_codes.stat().st_size > FIRST)
    call_vm(container, "fw0", "Kill")

    ours = [int(mark["CODE"], 16) for mark in container.marks("fw0")]
    theirs = list(qemu_codes.read_bytes())
    common = list(takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    assert ours[:FIRST] == [0x1E, 0x1F, 0x28, 0x2A]
    assert len(common) == min(len(ours), len(theirs))


@pytest.mark.parametrize("image", SEABIOS)
def test_the_text_of_seabios_is_in_the_journal(container: Container, image: str) -> None:
    vm = image.removesuffix(".bin")
    firmware = ("firmware", "s", f"/usr/share/seabios/{image}")
    container.start_vm(vm, firmware, ("firmware-debug", "s", "journal"))

    wait_for(lambda: any("SeaBIOS (version" in line for line in text(container, vm)))
    call_vm(container, vm, "Kill")


@pytest.mark.parametrize("image", SEABIOS)
def test_the_text_of_seabios_is_in_a_file(container: Container, image: str) -> None:
    vm = "file-" + image.removesuffix(".bin")
    firmware = ("firmware", "s", f"/usr/share/seabios/{image}")
    container.start_vm(vm, firmware, ("firmware-debug", "s", f"file:{vm}.txt"))

    path = f"/var/log/chdebugd/{vm}.txt"
    wait_for(lambda: b"SeaBIOS (version" in container.get(path))
    call_vm(container, vm, "Kill")


def text(container: Container, vm: str) -> list[str]:
    entries = container.journal("-t", "chdebugd", VM=vm, PORT="firmware-debug")
    return [entry["MESSAGE"] for entry in entries]
