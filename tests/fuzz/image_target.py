"""One image after the other for the real loaders, guided by what each one reaches (libFuzzer).

Run by test_images.py: ROLE, then options and corpus directories of libFuzzer.
"""

from __future__ import annotations

import os
import sys
from typing import cast

import atheris

with atheris.instrument_imports(include=["chdebugd.vmm.boot"]):
    from chdebugd.vmm.boot import bzimage, elf, firmware, initrd, pvh
    from chdebugd.vmm.boot.image import Image
    from chdebugd.vmm.boot.loader import BootSource
from chdebugd.errors import InvalidImageError, InvalidOptionError
from chdebugd.vmm.cpu import Flat32
from chdebugd.vmm.kvm import Vm
from chdebugd.vmm.memory import GuestMemory

MIB = 1 << 20
INSTRUMENTED = (bzimage, elf, firmware, initrd, pvh)


class NoVm:
    """KVM is only told where memory lies, which costs more than all the rest."""

    def add_memory(self, *_: object, **__: object) -> None:
        pass


class Loader:
    """Loads what is in one memfd; an image that is refused must be refused by name."""

    def __init__(self, role: str) -> None:
        self._fd = os.memfd_create("image")
        self._initrd = Image("initrd", "initrd", os.memfd_create("initrd"))
        os.write(self._initrd.fd, bytes(5000))
        self._role = role

    def __call__(self, data: bytes) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)
        image = Image(self._role, "fuzz", self._fd)
        if self._role == "kernel":
            source = BootSource(kernel=image, initrd=self._initrd, cmdline="console=ttyS0 quiet")
        else:
            source = BootSource(firmware=image)
        memory = GuestMemory(cast(Vm, NoVm()), 32 * MIB)
        try:
            entry = source.load(memory, 1)
            if isinstance(entry, Flat32):
                memory.read(entry.eip, 1)
        except (InvalidImageError, InvalidOptionError):
            pass
        finally:
            memory.close()


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], Loader(sys.argv[1]))
    atheris.Fuzz()
