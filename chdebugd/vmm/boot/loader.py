"""Which image is booted how."""

from __future__ import annotations

from typing import NamedTuple

from chdebugd.vmm.boot import bzimage, elf, firmware, pvh
from chdebugd.vmm.boot.acpi import load_tables
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.cpu import Entry
from chdebugd.vmm.memory import GuestMemory


class BootSource(NamedTuple):
    """A firmware, or a kernel with what belongs to it."""

    firmware: Image | None = None
    kernel: Image | None = None
    initrd: Image | None = None
    cmdline: str = ""

    def load(self, memory: GuestMemory, n_cpus: int) -> Entry:
        """Put all into memory and say how vCPU 0 enters; raises InvalidImageError."""
        image = self.firmware or self.kernel
        if image is None:
            raise ValueError("A boot source needs a firmware or a kernel")
        if self.firmware and not elf.is_elf(image):
            return firmware.load_flat(image, memory)
        rsdp = load_tables(memory, n_cpus)
        load = pvh.load_pvh if elf.is_elf(image) else bzimage.load_bzimage
        return load(image, self.initrd, self.cmdline, rsdp, memory)
