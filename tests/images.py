"""Kernel and firmware images made by hand, right and wrong."""

from __future__ import annotations

import struct

LOAD_ADDRESS = 0x100000
XEN_NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0"


def pvh_elf(
    code: bytes,
    *,
    address: int = LOAD_ADDRESS,
    memory_size: int | None = None,
    note: bytes | None = None,
    extra: list[tuple[int, int, bytes]] | None = None,
) -> bytes:
    """A 64-bit ELF that loads `code` at `address` and is entered there by PVH.

    `extra` segments are (address, memory size, bytes).
    """
    note = XEN_NOTE + struct.pack("<I", address) if note is None else note
    size = len(code) if memory_size is None else memory_size
    loads = [(address, size, code), *(extra or [])]
    count = len(loads) + 1
    offset = 64 + 56 * count
    headers, blobs = b"", b""
    for at, memory, data in loads:
        headers += struct.pack("<IIQQQQQQ", 1, 5, offset, at, at, len(data), memory, 4096)
        blobs += data
        offset += len(data)
    headers += struct.pack("<IIQQQQQQ", 4, 4, offset, 0, 0, len(note), len(note), 4)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, address, 64, 0, 0, 64, 56, count, 64, 0, 0
    )
    return header + headers + blobs + note


def bzimage(
    kernel: bytes,
    *,
    version: int = 0x20F,
    setup_sectors: int = 1,
    cmdline_size: int = 2047,
    pref_address: int = 0x100_0000,
    init_size: int = 0x1000,
) -> bytes:
    """A bzImage as small as boot.rst allows, with `kernel` as its protected-mode part."""
    setup = bytearray(512 * (setup_sectors + 1))
    setup[0x1F1] = setup_sectors
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x200:0x202] = b"\xeb\x6a"  # jmp over the header, whose end is at 0x202 + 0x6a
    struct.pack_into("<4sH", setup, 0x202, b"HdrS", version)
    setup[0x211] = 1  # loaded high
    struct.pack_into("<I", setup, 0x22C, 0x7FFF_FFFF)  # initrd_addr_max
    struct.pack_into("<IB", setup, 0x230, 0x20_0000, 1)  # kernel_alignment, relocatable
    struct.pack_into("<I", setup, 0x238, cmdline_size)
    struct.pack_into("<QI", setup, 0x258, pref_address, init_size)
    return bytes(setup) + kernel
