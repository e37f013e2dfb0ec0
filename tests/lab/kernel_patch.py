"""`python -m tests.lab.kernel_patch BZIMAGE`: the marks of a kernel that has the kit's patch."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.lab.guest import IMAGES, Guest
from tests.lab.installed import installed

MIB = 1 << 20
KERNEL_BEGINS, KERNEL_DONE, ARCHIVE = 0x40, 0x41, 0x48
EXPECTED = [KERNEL_BEGINS, KERNEL_DONE, ARCHIVE]


def main(bzimage: Path) -> str | None:
    """Print each mark and its time; an error where they are not the ones expected."""
    with tempfile.TemporaryDirectory() as place, installed(Path(place)) as outer:
        outer.put(f"{IMAGES}/patched", bzimage.read_bytes())
        vm = Guest(outer, "patched")
        images = {"kernel": f"{IMAGES}/patched", "initrd": f"{IMAGES}/chdebug-mark.cpio"}
        vm.start(**images, cmdline="quiet rdinit=/chdebug-init", memory=128 * MIB)
        vm.wait_mark(ARCHIVE)
        marks = vm.marks()
    for mark in marks:
        print(f"{mark.code:#x} {mark.component} {mark.elapsed_nsec / 1e9:.6f} s")
    came = [mark.code for mark in marks]
    return None if came == EXPECTED else f"{EXPECTED} were expected"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
