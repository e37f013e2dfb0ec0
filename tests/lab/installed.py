"""The outer machine with the .deb of this checkout installed by apt, and the daemon started."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.guest import IMAGES
from tests.lab.outer import OuterMachine

ROOT = Path(__file__).parents[2]
PACKAGES = "/srv/packages"


@contextmanager
def installed(work: Path) -> Iterator[OuterMachine]:
    """Booted anew, its files in `work`; killed at the end."""
    made = subprocess.run(
        [ROOT / "packaging/lab/build"], check=True, stdout=subprocess.PIPE, text=True
    )
    with OuterMachine(Path(made.stdout.strip()), package_disk(work), work) as outer:
        outer.wait_ready()
        outer.run(f"mkdir -p {IMAGES} {PACKAGES}")
        outer.run(f"mount /dev/vdb {IMAGES} && mount /dev/vdc {PACKAGES}")
        outer.run(f"apt-get install -q -y {PACKAGES}/chdebugd_*.deb", timeout=300)
        outer.run(f"chown --recursive chdebugd: {IMAGES} && systemctl start chdebugd")
        yield outer


def package_disk(work: Path) -> Path:
    """A disk with the .deb of this checkout on it."""
    tree, disk = work / "packages", work / "packages.img"
    subprocess.run([ROOT / "packaging/build-deb", tree], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, disk, "32M"], check=True)
    return disk
