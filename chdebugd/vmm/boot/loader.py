"""Which image is booted how."""

from __future__ import annotations

from dataclasses import dataclass

from chdebugd.vmm.boot import bzimage, elf, firmware, pvh
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.cpu import Entry
from chdebugd.vmm.memory import GuestMemory


@dataclass(frozen=True)
class BootSource:
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
        if elf.is_elf(image):
            return pvh.load_pvh(image, self.initrd, self.cmdline, 0, memory)
        if self.firmware:
            return firmware.load_flat(image, memory)
        return bzimage.load_bzimage(image, self.initrd, self.cmdline, 0, memory)
