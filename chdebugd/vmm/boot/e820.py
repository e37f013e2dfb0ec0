"""The memory map that a kernel is told (ACPI 15, int 15h e820)."""

from __future__ import annotations

from chdebugd.vmm.layout import (
    ACPI_ADDRESS,
    HIGH_RAM_START,
    HOLE_END,
    HOLE_START,
    LOW_RAM_END,
)

RAM, RESERVED = 1, 2


def ram_ranges(size: int) -> list[tuple[int, int]]:
    """Start and bytes of each piece of RAM of a machine with `size` bytes."""
    ranges = [(0, min(size, HOLE_START))]
    if size > HOLE_START:
        ranges.append((HOLE_END, size - HOLE_START))
    return ranges


def memory_map(size: int) -> list[tuple[int, int, int]]:
    """Start, bytes and kind of each range of a machine with `size` bytes of RAM."""
    (_, low), *high = ram_ranges(size)
    return [
        (0, LOW_RAM_END, RAM),
        (ACPI_ADDRESS, HIGH_RAM_START - ACPI_ADDRESS, RESERVED),
        (HIGH_RAM_START, low - HIGH_RAM_START, RAM),
        *((start, length, RAM) for start, length in high),
    ]
