"""Flat firmware: a ROM that ends at 4 GiB, entered at the reset vector."""

from __future__ import annotations

from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.cpu import ResetVector
from chdebugd.vmm.layout import BIOS_COPY_END, BIOS_COPY_START, ROM_MAX_SIZE
from chdebugd.vmm.memory import GuestMemory

RESET_VECTOR_SIZE = 16


def load_flat(image: Image, memory: GuestMemory) -> ResetVector:
    """Map the image below 4 GiB, with its last 128 KiB below 1 MiB as well.

    Raises InvalidImageError.
    """
    size = image.size
    if not RESET_VECTOR_SIZE <= size <= ROM_MAX_SIZE:
        raise image.error(
            f"has {size} bytes; a flat firmware has {RESET_VECTOR_SIZE} to {ROM_MAX_SIZE}"
        )
    rom = image.read(0, size)
    memory.add_rom(rom)
    copy = rom[-(BIOS_COPY_END - BIOS_COPY_START) :]
    memory.write(BIOS_COPY_END - len(copy), copy)
    return ResetVector()
