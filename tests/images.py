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
