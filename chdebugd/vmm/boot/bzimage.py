"""Linux's bzImage by its 32-bit entry (Documentation/arch/x86/boot.rst).

The 16-bit entry is not used: it needs a BIOS, and its delays write port 0x80.
"""

from __future__ import annotations

import struct

from chdebugd.vmm.boot.e820 import memory_map
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.initrd import load_cmdline, load_initrd
from chdebugd.vmm.cpu import Flat32
from chdebugd.vmm.layout import BOOT_STACK, HIGH_RAM_START, ZERO_PAGE_ADDRESS
from chdebugd.vmm.memory import GuestAddressError, GuestMemory

SECTOR = 512
HEADER_START = 0x1F1
MAGIC_AT, MAGIC = 0x202, b"HdrS"
PROTOCOL_2_10 = 0x20A  # pref_address and init_size
LOADED_HIGH = 1
LOADER_UNDEFINED = 0xFF
E820_TABLE, E820_COUNT, ACPI_RSDP = 0x2D0, 0x1E8, 0x70


class SetupHeader:
    """The setup header, by the names that boot.rst gives its fields."""

    def __init__(self, image: Image) -> None:
        """Read and check it; raises InvalidImageError."""
        first = image.read(0, 2 * SECTOR) if image.size >= 2 * SECTOR else b""
        if first[MAGIC_AT : MAGIC_AT + 4] != MAGIC:
            raise image.error("is neither an ELF nor a bzImage; give a Linux kernel")
        (self.version,) = struct.unpack_from("<H", first, 0x206)
        if self.version < PROTOCOL_2_10 or not first[0x211] & LOADED_HIGH:
            raise image.error("is too old: it needs boot protocol 2.10 (Linux 2.6.31) or later")
        self.raw = first[HEADER_START : MAGIC_AT + first[0x201]]
        self.setup_size = ((first[0x1F1] or 4) + 1) * SECTOR
        (self.initrd_addr_max,) = struct.unpack_from("<I", first, 0x22C)
        (self.cmdline_size,) = struct.unpack_from("<I", first, 0x238)
        (self.pref_address,) = struct.unpack_from("<Q", first, 0x258)
        (self.init_size,) = struct.unpack_from("<I", first, 0x260)


def load_bzimage(
    image: Image, initrd: Image | None, cmdline: str, rsdp: int, memory: GuestMemory
) -> Flat32:
    """Load the kernel, its initrd and zero page; raises InvalidImageError."""
    header = SetupHeader(image)
    size = image.size - header.setup_size
    if size <= 0:
        raise image.error("is truncated; give the whole file")
    load_address = HIGH_RAM_START
    # The kernel moves itself to pref_address and unpacks there.
    floor = max(load_address + size, header.pref_address + header.init_size)
    if floor > memory.low_end:
        raise image.error(f"needs {floor} bytes of memory to unpack; give the VM more")
    try:
        with memory.view(load_address, size) as target:
            image.read_into(target, header.setup_size)
    except GuestAddressError:
        raise image.error(f"has {size} bytes; give the VM more memory") from None
    page = bytearray(4096)
    page[HEADER_START : HEADER_START + len(header.raw)] = header.raw
    page[0x210] = LOADER_UNDEFINED
    struct.pack_into("<Q", page, ACPI_RSDP, rsdp)
    address = load_cmdline(cmdline, memory, min(header.cmdline_size, 0xFFFF))
    struct.pack_into("<I", page, 0x228, address)
    if initrd:
        place = load_initrd(initrd, memory, floor=floor, ceiling=header.initrd_addr_max + 1)
        struct.pack_into("<II", page, 0x218, *place)
    ranges = memory_map(memory.size)
    page[E820_COUNT] = len(ranges)
    for at, (start, length, kind) in enumerate(ranges):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * at, start, length, kind)
    memory.write(ZERO_PAGE_ADDRESS, bytes(page))
    return Flat32(eip=load_address, esi=ZERO_PAGE_ADDRESS, esp=BOOT_STACK)
