"""A disk image as distributions make them for clouds: the lab's Debian and its signed GRUB."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.efi_disk import CLOUD_ROOT_START, fill_cloud_esp, make_cloud_disk, shim

ROOT = Path(__file__).parents[2]
GRUB_PACKAGES = ("grub-efi-amd64-signed", "grub-efi-amd64-bin")
MIB = 1 << 20
# What stands on the EFI partition; the configuration proper is on the root's file system.
FIRST_CONFIGURATION = b"""search --no-floppy --label root --set root
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
"""


def make_cloud_image(path: Path, images: Path, work: Path) -> None:
    """Make it of the root partition in `images`, the lab's disks; what it takes is put in `work`.

    Firmware finds shim where there is one, and else GRUB.
    """
    root = _root_partition(images, work)
    _unpack(work)
    _configure(root, work)
    make_cloud_disk(path, root.stat().st_size)
    grub = work / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
    files: dict[str, Path | bytes] = {
        "EFI/BOOT/BOOTX64.EFI": shim() or grub,
        "EFI/BOOT/grubx64.efi": grub,
        "EFI/debian/grub.cfg": FIRST_CONFIGURATION,
    }
    fill_cloud_esp(path, files)
    _copy(root, path, f"seek={CLOUD_ROOT_START // MIB}")


def _root_partition(images: Path, work: Path) -> Path:
    disk, root = work / "disk.img", work / "root.img"
    dump = ["/sbin/debugfs", "-R", f"dump /disk.img {disk}", f"{images}/guests.img"]
    subprocess.run(dump, check=True, capture_output=True)
    _copy(disk, root, "skip=1")  # its first partition is all that follows
    disk.unlink()
    return root


def _copy(source: Path, target: Path, place: str) -> None:
    options = ["bs=1M", "conv=notrunc,sparse", "status=none"]
    subprocess.run(["dd", f"if={source}", f"of={target}", place, *options], check=True)


def _unpack(work: Path) -> None:
    """Debian's packages; they stay uninstalled."""
    subprocess.run(["apt-get", "-qq", "download", *GRUB_PACKAGES], cwd=work, check=True)
    for package in work.glob("grub-efi-*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, work], check=True)


def _configure(root: Path, work: Path) -> None:
    """Put GRUB's configuration, with the guest kit's marks, and the module for them on `root`."""
    grub = ROOT / "packaging/guest/grub"
    first = subprocess.run(["sh", grub / "01_chdebug"], check=True, stdout=subprocess.PIPE)
    configuration = work / "grub.cfg"
    configuration.write_bytes(first.stdout + b"set timeout=0\n" + (grub / "marks.cfg").read_bytes())
    module = work / "usr/lib/grub/x86_64-efi/iorw.mod"
    commands = f"""cd /boot/grub
write {configuration} grub.cfg
mkdir x86_64-efi
cd x86_64-efi
write {module} iorw.mod
"""
    subprocess.run(
        ["/sbin/debugfs", "-w", root], input=commands, text=True, check=True, capture_output=True
    )
