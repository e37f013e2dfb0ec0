"""The PVH boot protocol: what hvm_start_info tells a kernel or firmware.

Xen's public/arch-x86/hvm/start_info.h, version 1.
"""

from __future__ import annotations

import struct

from chdebugd.vmm.boot.e820 import memory_map
from chdebugd.vmm.boot.elf import load
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.initrd import load_cmdline, load_initrd
from chdebugd.vmm.cpu import Flat32
from chdebugd.vmm.layout import MEMMAP_ADDRESS, MODLIST_ADDRESS, START_INFO_ADDRESS
from chdebugd.vmm.memory import GuestMemory

MAGIC = 0x336E_C578
VERSION = 1


def load_pvh(
    image: Image, initrd: Image | None, cmdline: str, rsdp: int, memory: GuestMemory
) -> Flat32:
    """Load an ELF with its initrd and command line; raises InvalidImageError."""
    entry, segments = load(image, memory)
    cmdline_address = load_cmdline(cmdline, memory)
    modules = 0
    if initrd:
        floor = max(segment.end for segment in segments)
        address, size = load_initrd(initrd, memory, floor=floor)
        memory.write(MODLIST_ADDRESS, struct.pack("<QQQQ", address, size, 0, 0))
        modules = 1
    ranges = memory_map(memory.size)
    table = b"".join(struct.pack("<QQII", start, size, kind, 0) for start, size, kind in ranges)
    memory.write(MEMMAP_ADDRESS, table)
    start_info = struct.pack(
        "<IIIIQQQQII",
        MAGIC,
        VERSION,
        0,
        modules,
        MODLIST_ADDRESS if modules else 0,
        cmdline_address,
        rsdp,
        MEMMAP_ADDRESS,
        len(ranges),
        0,
    )
    memory.write(START_INFO_ADDRESS, start_info)
    return Flat32(eip=entry, ebx=START_INFO_ADDRESS)
