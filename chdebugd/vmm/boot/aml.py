"""ACPI machine language, as far as our one definition block needs it (ACPI 6.5, chapter 20)."""

from __future__ import annotations

ZERO, ONE, BYTE, WORD, DWORD = 0x00, 0x01, 0x0A, 0x0B, 0x0C
NAME, SCOPE, BUFFER, PACKAGE, DEVICE = b"\x08", b"\x10", b"\x11", b"\x12", b"\x5b\x82"
END_TAG = b"\x79\x00"  # of a resource template; 0 is "no checksum" (6.4.2.9)

# Resource types of an address space descriptor (6.4.3.5).
MEMORY, IO, BUS = 0, 1, 2
FIXED_MIN_MAX = 0x0C  # both ends are fixed, and the bridge forwards positively
ENTIRE_RANGE, NOT_CACHEABLE_WRITABLE = 3, 1


def _with_length(body: bytes) -> bytes:
    """`body` after its PkgLength, which counts itself (20.2.4)."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for extra in (1, 2, 3):
        total = len(body) + 1 + extra
        if total < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little") + body
    raise ValueError(f"A package of {len(body)} bytes is too long for AML")


def segment(text: str) -> bytes:
    """A NameSeg: four letters, filled up with `_`."""
    return text.ljust(4, "_").encode()


def integer(value: int) -> bytes:
    """The shortest ComputationalData of up to 32 bits."""
    if value in (ZERO, ONE):
        return bytes([value])
    for prefix, size in ((BYTE, 1), (WORD, 2), (DWORD, 4)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"{value:#x} has more than 32 bits")


def eisa_id(text: str) -> bytes:
    """A compressed identifier, such as `PNP0501` (19.3.4)."""
    first, second, third = (ord(letter) - 0x40 for letter in text[:3])
    number = first << 26 | second << 21 | third << 16 | int(text[3:], 16)
    return bytes([DWORD]) + number.to_bytes(4, "big")


def package(*items: bytes) -> bytes:
    """A Package of up to 255 elements."""
    return PACKAGE + _with_length(bytes([len(items)]) + b"".join(items))


def name(text: str, value: bytes) -> bytes:
    """Name (text, value)."""
    return NAME + segment(text) + value


def scope(text: str, *body: bytes) -> bytes:
    """Scope (text) { body }."""
    return SCOPE + _with_length(segment(text) + b"".join(body))


def device(text: str, *body: bytes) -> bytes:
    """Device (text) { body }."""
    return DEVICE + _with_length(segment(text) + b"".join(body))


def resources(*descriptors: bytes) -> bytes:
    """A ResourceTemplate."""
    data = b"".join(descriptors) + END_TAG
    return BUFFER + _with_length(integer(len(data)) + data)


def io_ports(start: int, length: int) -> bytes:
    """IO (Decode16, start, start, 1, length) (6.4.2.5)."""
    word = start.to_bytes(2, "little")
    return b"\x47\x01" + word + word + bytes([1, length])


def irq(number: int) -> bytes:
    """IRQNoFlags () {number}: edge-triggered, active high (6.4.2.1)."""
    return b"\x22" + (1 << number).to_bytes(2, "little")


def address_space(kind: int, start: int, end: int, *, size: int) -> bytes:
    """WordBusNumber, WordIO or DWordMemory from `start` up to `end`, fields of `size` bytes."""
    tag = {2: 0x88, 4: 0x87}[size]
    flags = {BUS: 0, IO: ENTIRE_RANGE, MEMORY: NOT_CACHEABLE_WRITABLE}[kind]
    numbers = (0, start, end - 1, 0, end - start)  # granularity, minimum, maximum, offset, length
    body = bytes([kind, FIXED_MIN_MAX, flags])
    body += b"".join(number.to_bytes(size, "little") for number in numbers)
    return bytes([tag]) + len(body).to_bytes(2, "little") + body
