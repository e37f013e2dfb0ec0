"""PVH firmware and an EFI partition: our own that polls, and rust-hypervisor-firmware."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chdebugd.trace.ring import Ring
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from chdebugd.vmm.virtio.block import Disk
from tests.efi_disk import (
    CLOUD_ESP,
    ESP_START,
    SECTOR,
    hypervisor_firmware,
    make_boot_disk,
    make_cloud_disk,
    make_efi_disk,
    write_at,
)
from tests.guests import SHUTDOWN_32, mark
from tests.images import bzimage
from tests.kvm.conftest import drain

pytestmark = pytest.mark.kvm
Build = Callable[..., tuple[Machine, threading.Event]]

SOURCE = Path(__file__).with_name("pvh_firmware.c")
FLAGS = (
    "-O2 -std=gnu11 -Wall -Wextra -Werror -ffreestanding -fno-stack-protector -fno-pic"
    " -fcf-protection=none -fno-asynchronous-unwind-tables -mgeneral-regs-only -mno-red-zone"
    " -static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,noseparate-code"
    " -Wl,-Ttext-segment=0x100000 -Wl,-e,entry"
).split()
TIMEOUT = 120  # seconds; software KVM takes 5
HALT_STEP = 0.2  # seconds from look to look whether the guest has halted for good
MIB, GIB = 1 << 20, 1 << 30
# 32-bit and 64-bit code alike.
STAGE = mark(0x20, 0x21) + SHUTDOWN_32
ENTRY_64 = 0x200  # of a kernel's protected-mode part (boot.rst)


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("firmware") / "pvh-firmware"
    subprocess.run(["gcc", *FLAGS, "-o", target, SOURCE], check=True)
    return target


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[Disk]]:
    """An empty disk, and one with an EFI partition whose first sector is code."""
    empty, bootable = tmp_path / "empty", tmp_path / "bootable"
    with empty.open("wb") as image:
        image.truncate(1 * MIB)
    make_efi_disk(bootable, 4)
    write_at(bootable, ESP_START, STAGE)
    made = [Disk(os.open(path, os.O_RDWR), path.name, path.name) for path in (empty, bootable)]
    yield made
    for disk in made:
        os.close(disk.fd)


def boot(
    build: Build, ring: Ring, image: Path, disks: list[Disk], **config: object
) -> tuple[Machine, list[int], str]:
    """Run it to its end; the machine, its marks and what it said on COM1."""
    said = bytearray()
    kernel = Image("kernel", str(image), os.open(image, os.O_RDONLY))
    machine, ended = build(
        kernel,
        boot=BootSource(kernel=kernel),
        cpus=4,
        rng=True,
        disks=tuple(disks),
        serial=said.extend,
        **config,
    )
    machine.start()
    deadline = time.monotonic() + TIMEOUT
    while not ended.wait(HALT_STEP):
        machine.end_if_dead_halted()
        assert time.monotonic() < deadline, said.decode(errors="replace")
    codes = [event.code for event in drain(ring, [])]
    machine.close()
    return machine, codes, said.decode(errors="replace")


@pytest.mark.parametrize("memory", [512 * MIB, 1 * GIB, 6 * GIB])
def test_it_finds_the_machine_and_boots_the_efi_partition(
    build: Build, ring: Ring, firmware: Path, disks: list[Disk], memory: int
) -> None:
    machine, codes, text = boot(build, ring, firmware, disks, memory=memory)

    assert machine.outcome is not None
    assert machine.outcome.result == Result.SHUTDOWN, text
    assert codes == [0x00, 0x01, 0x02, 0x20, 0x21], text
    low_holes = 0x100000 - 0xA0000
    assert f"RAM {memory - low_holes:x}\n" in text
    assert "disk in slot 1\nsectors 800\ndisk in slot 2\nsectors 2000\n" in text


def test_it_boots_an_image_made_for_clouds_that_nobody_may_write(
    build: Build, ring: Ring, firmware: Path, tmp_path: Path
) -> None:
    """Its EFI partition is not the first, its numbers are out of order, its size is no MiB's."""
    path = tmp_path / "cloud"
    make_cloud_disk(path, 1 * MIB)
    write_at(path, CLOUD_ESP.start, STAGE)
    sectors = path.stat().st_size // SECTOR
    disk = Disk(os.open(path, os.O_RDONLY), "cloud", "cloud", readonly=True)

    machine, codes, text = boot(build, ring, firmware, [disk], memory=64 * MIB)

    assert machine.outcome is not None
    assert machine.outcome.result == Result.SHUTDOWN, text
    assert codes == [0x00, 0x01, 0x02, 0x20, 0x21], text
    assert f"disk in slot 1\nsectors {sectors:x}\n" in text
    assert sectors % (MIB // SECTOR)
    os.close(disk.fd)


def test_without_a_disk_to_boot_it_says_so_and_halts(
    build: Build, ring: Ring, firmware: Path, disks: list[Disk]
) -> None:
    machine, codes, text = boot(build, ring, firmware, disks[:1], memory=64 * MIB)

    assert machine.outcome is not None
    assert machine.outcome.result == Result.HALTED, text
    assert codes == [0x00, 0x01, 0x1F]
    assert text.endswith("no disk with an EFI partition\n")


@pytest.mark.hypervisor_fw
def test_rust_hypervisor_firmware_boots_a_loader_entry(
    build: Build, ring: Ring, tmp_path: Path
) -> None:
    firmware = hypervisor_firmware()
    assert firmware is not None
    path = tmp_path / "disk"
    make_boot_disk(
        path,
        16,
        {
            "loader/loader.conf": b"default own*\n",
            "loader/entries/own.conf": b"title own\nlinux /kernel.bin\noptions quiet\n",
            "kernel.bin": bzimage(bytes(ENTRY_64) + STAGE.ljust(4096, b"\xf4")),
        },
    )
    disk = Disk(os.open(path, os.O_RDWR), "disk", "disk")

    machine, codes, text = boot(build, ring, firmware, [disk], memory=1 * GIB)

    assert machine.outcome is not None
    assert machine.outcome.result == Result.SHUTDOWN, text
    assert codes == [0x20, 0x21], text
    assert "Jumping to kernel" in text
    os.close(disk.fd)
