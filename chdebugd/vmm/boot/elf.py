"""ELF images with a PVH entry: kernels and firmware (Xen's PVH boot ABI, Linux's pvh.rst).

Every field is checked before use: offsets against the file, addresses against RAM, segments
against each other and against what the boot protocol puts into low memory.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.layout import LOW_RAM_END, MIB
from chdebugd.vmm.memory import GuestAddressError, GuestMemory

MAGIC = b"\x7fELF"
PT_LOAD, PT_NOTE = 1, 4
EM_386, EM_X86_64 = 3, 62
XEN_NOTE_NAME = b"Xen\0"
XEN_ELFNOTE_PHYS32_ENTRY = 18
MAX_SEGMENTS = 64
MAX_NOTES_SIZE = 1 * MIB


class Segment(NamedTuple):
    """One program header, the same for 32 and 64 bits."""

    kind: int
    offset: int
    address: int
    file_size: int
    memory_size: int

    @property
    def end(self) -> int:
        """The first guest address after it."""
        return self.address + self.memory_size


def is_elf(image: Image) -> bool:
    """Whether the file begins as an ELF does."""
    return image.size >= 4 and image.read(0, 4) == MAGIC


def load(image: Image, memory: GuestMemory) -> tuple[int, list[Segment]]:
    """Put the segments into memory; returns the PVH entry and the loaded segments.

    Raises InvalidImageError.
    """
    segments = _segments(image)
    entry = _pvh_entry(image, segments)
    loaded = [segment for segment in segments if segment.kind == PT_LOAD and segment.memory_size]
    if not loaded:
        raise image.error("has nothing to load; give a kernel or firmware image")
    _check_overlap(image, loaded)
    for segment in loaded:
        _load_segment(image, memory, segment)
    if not any(segment.address <= entry < segment.end for segment in loaded):
        raise image.error(f"has its PVH entry {entry:#x} outside of its segments")
    return entry, loaded


def _segments(image: Image) -> list[Segment]:
    """All program headers (System V ABI, chapter 5)."""
    ident = image.read(0, 20)
    machine = int.from_bytes(ident[18:20], "little")
    if ident[5] != 1 or machine not in (EM_386, EM_X86_64):
        raise image.error("is not an x86 ELF; give one for this machine")
    if ident[4] == 2:
        header, table, entry_size = struct.Struct("<QQQIHHHH"), struct.Struct("<IIQQQQQQ"), 56
    else:
        header, table, entry_size = struct.Struct("<IIIIHHHH"), struct.Struct("<IIIIIIII"), 32
    _, offset, _, _, _, size, count, _ = header.unpack(image.read(24, header.size))
    if size != entry_size or not 0 < count <= MAX_SEGMENTS:
        raise image.error("has a broken program header table")
    data = image.read(offset, size * count)
    return [_segment(fields, ident[4] == 2) for fields in table.iter_unpack(data)]


def _segment(fields: tuple[int, ...], is_64bit: bool) -> Segment:
    if is_64bit:
        kind, _, offset, _, address, file_size, memory_size, _ = fields
    else:
        kind, offset, _, address, file_size, memory_size, _, _ = fields
    return Segment(kind, offset, address, file_size, memory_size)


def _pvh_entry(image: Image, segments: list[Segment]) -> int:
    for segment in segments:
        if segment.kind != PT_NOTE:
            continue
        if segment.file_size > MAX_NOTES_SIZE:
            raise image.error("has notes of more than 1 MiB")
        entry = _find_note(image.read(segment.offset, segment.file_size))
        if entry is not None:
            return entry
    raise image.error("has no PVH note; give a kernel built with CONFIG_PVH, or a bzImage")


def _find_note(notes: bytes) -> int | None:
    """The PVH entry; notes are padded to 4 bytes, and a broken one ends the search."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name_at = at + 12
        data_at = name_at + (name_size + 3 & ~3)
        at = data_at + (size + 3 & ~3)
        if data_at + size > len(notes):
            return None
        name = notes[name_at : name_at + name_size]
        if name == XEN_NOTE_NAME and kind == XEN_ELFNOTE_PHYS32_ENTRY and size in (4, 8):
            entry = int.from_bytes(notes[data_at : data_at + size], "little")
            return entry if entry < 1 << 32 else None
    return None


def _check_overlap(image: Image, segments: list[Segment]) -> None:
    """Refuse segments on each other, and on what the boot protocol keeps in low memory."""
    end = 0
    for segment in sorted(segments, key=lambda each: each.address):
        if segment.file_size > segment.memory_size:
            raise image.error("has a segment larger in the file than in memory")
        if segment.address < max(end, LOW_RAM_END):
            raise image.error(f"has segments that overlap, or lie too low, at {segment.address:#x}")
        end = segment.end


def _load_segment(image: Image, memory: GuestMemory, segment: Segment) -> None:
    """Memory is fresh, hence zero: what the file does not fill (BSS) needs no clearing."""
    try:
        target = memory.view(segment.address, segment.memory_size)
    except GuestAddressError:
        raise image.error(
            f"needs memory at {segment.address:#x} to {segment.end:#x}; give the VM more memory"
        ) from None
    with target, target[: segment.file_size] as part:
        image.read_into(part, segment.offset)
