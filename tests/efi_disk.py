"""Disk images with a GPT and an EFI partition, as firmware looks for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

MIB = 1 << 20
SECTOR = 512
ESP_START = 1 * MIB
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"  # UEFI 2.10, 5.3.3


def make_efi_disk(path: Path, mib: int) -> None:
    """An image of this size, all of it an EFI partition with nothing in it."""
    with path.open("wb") as image:
        image.truncate(mib * MIB)
    table = f"label: gpt\nstart={ESP_START // SECTOR}, type={ESP_TYPE}\n"
    subprocess.run(["/sbin/sfdisk", "--quiet", str(path)], input=table, text=True, check=True)


def write_start(path: Path, data: bytes) -> None:
    """Put `data` where the EFI partition begins."""
    with path.open("r+b") as image:
        image.seek(ESP_START)
        image.write(data)


def make_boot_disk(path: Path, mib: int, files: Mapping[str, Path | bytes]) -> None:
    """An image whose EFI partition is a FAT with these files, by their paths."""
    make_efi_disk(path, mib)
    place = f"{path}@@{ESP_START}"
    # The partition ends before the second copy of the table, 33 sectors from the end, on a MiB.
    sectors = (mib - 2) * MIB // SECTOR
    subprocess.run(["mformat", "-i", place, "-T", str(sectors), "::"], check=True)
    made: set[str] = set()
    for name, content in files.items():
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in made:
                subprocess.run(["mmd", "-i", place, f"::/{parent}"], check=True)
                made.add(str(parent))
        data = content if isinstance(content, bytes) else content.read_bytes()
        command = ["mcopy", "-i", place, "-", f"::/{name}"]
        subprocess.run(command, input=data, check=True)


def hypervisor_firmware() -> Path | None:
    """The rust-hypervisor-firmware that CHDEBUGD_HYPERVISOR_FW names."""
    name = os.environ.get("CHDEBUGD_HYPERVISOR_FW")
    return Path(name) if name else None
