"""Disk images with a GPT and an EFI partition, as firmware looks for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
SECTOR = 512
ESP_START = 1 * MIB
# UEFI 2.10, 5.3.3; and what GRUB and systemd say of theirs
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_TYPE = "21686148-6449-6E6F-744E-656564454649"
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
BACKUP = 33  # sectors after the last partition: the second copy of the table


class Partition(NamedTuple):
    """One of a GPT; places are bytes from the start of the disk."""

    number: int
    type: str
    start: int
    size: int


CLOUD_BIOS = Partition(14, BIOS_TYPE, 1 * MIB, 4 * MIB)
CLOUD_ESP = Partition(15, ESP_TYPE, 5 * MIB, 106 * MIB)
CLOUD_ROOT_START = 111 * MIB


def make_partitions(path: Path, size: int, *partitions: Partition) -> None:
    """An image of so many bytes, with these partitions and nothing in them."""
    with path.open("wb") as image:
        image.truncate(size)
    table = ["label: gpt", "first-lba: 34"]
    for each in partitions:
        start, sectors = each.start // SECTOR, each.size // SECTOR
        table.append(f"p{each.number} : start={start}, size={sectors}, type={each.type}")
    command = ["/sbin/sfdisk", "--quiet", str(path)]
    subprocess.run(command, input="\n".join(table), text=True, check=True)


def make_efi_disk(path: Path, mib: int) -> None:
    """An image of this size, all of it an EFI partition with nothing in it."""
    # It ends before the second copy of the table, on a MiB.
    make_partitions(path, mib * MIB, Partition(1, ESP_TYPE, ESP_START, (mib - 2) * MIB))


def make_cloud_disk(path: Path, root_size: int) -> None:
    """The partitions of Ubuntu's cloud images, nothing in them: their numbers are out of order.

    The image ends where its table does, at no whole number of MiB.
    """
    root = Partition(1, ROOT_TYPE, CLOUD_ROOT_START, root_size)
    size = root.start + root.size + BACKUP * SECTOR
    make_partitions(path, size, CLOUD_BIOS, CLOUD_ESP, root)


def write_at(path: Path, start: int, data: bytes) -> None:
    """Put `data` there."""
    with path.open("r+b") as image:
        image.seek(start)
        image.write(data)


def fill_fat(path: Path, start: int, files: Mapping[str, Path | bytes], *words: str) -> None:
    """Make a FAT at `start` by these words for mformat, with these files by their paths."""
    place = f"{path}@@{start}"
    subprocess.run(["mformat", "-i", place, *words, "::"], check=True)
    made: set[str] = set()
    for name, content in files.items():
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in made:
                subprocess.run(["mmd", "-i", place, f"::/{parent}"], check=True)
                made.add(str(parent))
        data = content if isinstance(content, bytes) else content.read_bytes()
        command = ["mcopy", "-i", place, "-", f"::/{name}"]
        subprocess.run(command, input=data, check=True)


def make_boot_disk(path: Path, mib: int, files: Mapping[str, Path | bytes]) -> None:
    """An image whose EFI partition is a FAT with these files, by their paths."""
    make_efi_disk(path, mib)
    # Firmware reads the FAT for each cluster: with one sector in each it takes twice as long.
    fill_fat(path, ESP_START, files, "-T", str((mib - 2) * MIB // SECTOR), "-c", "4")


def fill_cloud_esp(path: Path, files: Mapping[str, Path | bytes]) -> None:
    """Make the FAT of a cloud image's EFI partition, with these files by their paths."""
    fill_fat(path, CLOUD_ESP.start, files, "-F", "-T", str(CLOUD_ESP.size // SECTOR))


def hypervisor_firmware() -> Path | None:
    """The rust-hypervisor-firmware that CHDEBUGD_HYPERVISOR_FW names."""
    name = os.environ.get("CHDEBUGD_HYPERVISOR_FW")
    return Path(name) if name else None


def shim() -> Path | None:
    """The shim that CHDEBUGD_SHIM names, for that firmware to boot GRUB by."""
    name = os.environ.get("CHDEBUGD_SHIM")
    return Path(name) if name else None
