"""The outer machine with the .deb of this checkout installed by apt, and the daemon started."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.efi_disk import hypervisor_firmware, make_boot_disk
from tests.lab.cloud_image import make_cloud_image
from tests.lab.guest import IMAGES
from tests.lab.outer import OuterMachine

ROOT = Path(__file__).parents[2]
PACKAGES = "/srv/packages"
FIRMWARE, EFI_DISK, CLOUD_DISK = "hypervisor-fw", "efi.img", "cloud.img"
EFI_DISK_MIB, CLOUD_DISK_MIB = 32, 1280
LOADER_ENTRY = b"""title lab
linux /vmlinuz
initrd /initrd
options root=/dev/vda1 ro quiet panic=-1
"""


@contextmanager
def installed(work: Path) -> Iterator[OuterMachine]:
    """Booted anew, its files in `work`; killed at the end."""
    made = subprocess.run(
        [ROOT / "packaging/lab/build"], check=True, stdout=subprocess.PIPE, text=True
    )
    images = Path(made.stdout.strip())
    with OuterMachine(images, package_disk(work, images), work) as outer:
        outer.wait_ready()
        outer.run(f"mkdir -p {IMAGES} {PACKAGES}")
        outer.run(f"mount /dev/vdb {IMAGES} && mount /dev/vdc {PACKAGES}")
        outer.run(f"apt-get install -q -y {PACKAGES}/chdebugd_*.deb", timeout=300)
        if hypervisor_firmware():
            outer.run(f"cp {PACKAGES}/{FIRMWARE} {PACKAGES}/*.img {IMAGES}", timeout=600)
        outer.run(f"chown --recursive chdebugd: {IMAGES} && systemctl start chdebugd")
        yield outer


def package_disk(work: Path, images: Path) -> Path:
    """A disk with the .deb of this checkout on it, and PVH firmware with its disks if there is one.

    `images` is the directory of the lab's disks.
    """
    tree, disk, size = work / "packages", work / "packages.img", 32
    subprocess.run([ROOT / "packaging/build-deb", tree], check=True)
    firmware = hypervisor_firmware()
    if firmware:
        shutil.copy(firmware, tree / FIRMWARE)
        make_boot_disk(tree / EFI_DISK, EFI_DISK_MIB, loader_files(images, work))
        with TemporaryDirectory() as scratch:
            make_cloud_image(tree / CLOUD_DISK, images, Path(scratch))
        size += EFI_DISK_MIB + CLOUD_DISK_MIB
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, disk, f"{size}M"], check=True)
    return disk


def loader_files(images: Path, work: Path) -> dict[str, Path | bytes]:
    """What firmware boots by a loader entry: the guests' kernel and initrd."""
    for name in ("vmlinuz-generic", "initrd-generic"):
        command = ["/sbin/debugfs", "-R", f"dump /{name} {work / name}", f"{images}/guests.img"]
        subprocess.run(command, check=True, capture_output=True)
    return {
        "loader/loader.conf": b"default lab*\n",
        "loader/entries/lab.conf": LOADER_ENTRY,
        "vmlinuz": work / "vmlinuz-generic",
        "initrd": work / "initrd-generic",
    }
