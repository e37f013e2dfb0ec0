"""An address space: which device answers at which port or memory address.

A device sees offsets into its own range, never where it lies. Ranges do not overlap. An access
that no single device holds whole is split into bytes, as a chipset would; a byte that nobody
claims reads all ones, and a write to it goes nowhere.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple, Protocol


class Device(Protocol):
    """What a bus asks of a device. `size` is 1, 2, 4 or 8 bytes; values are little-endian."""

    def read(self, offset: int, size: int) -> int:
        """The value at `offset`; bits beyond `size` are cut off."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Take `value`, which fits `size`."""


class _Range(NamedTuple):
    start: int
    end: int
    device: Device
    turn: threading.Lock


_start = attrgetter("start")


class Bus:
    """Ports or guest physical addresses, and the devices behind them.

    Any thread may look up while one changes the ranges: a change puts a new tuple in place. Of
    several threads that access a range one has its turn, so a device sees them one by one.
    """

    def __init__(self) -> None:
        self._ranges: tuple[_Range, ...] = ()
        self._changing = threading.Lock()

    def insert(self, device: Device, start: int, length: int) -> None:
        """Let `device` answer `length` addresses from `start`; ValueError where one is taken."""
        end = start + length
        with self._changing:
            ranges = self._ranges
            if length < 1 or any(each.start < end and start < each.end for each in ranges):
                raise ValueError(f"Addresses {start:#x}-{end - 1:#x} are empty or taken")
            self._ranges = tuple(
                sorted((*ranges, _Range(start, end, device, threading.Lock())), key=_start)
            )

    def remove(self, device: Device) -> None:
        """Take back all ranges of `device`; nothing where it has none."""
        with self._changing:
            self._ranges = tuple(each for each in self._ranges if each.device is not device)

    def _find(self, address: int) -> _Range | None:
        ranges = self._ranges
        at = bisect_right(ranges, address, key=_start) - 1
        if at >= 0 and address < ranges[at].end:
            return ranges[at]
        return None

    def read(self, address: int, size: int) -> int:
        """What a read of `size` bytes at `address` returns."""
        found = self._find(address)
        if found and address + size <= found.end:
            with found.turn:
                return found.device.read(address - found.start, size) & ((1 << 8 * size) - 1)
        if size == 1:
            return 0xFF
        return sum(self.read(address + at, 1) << 8 * at for at in range(size))

    def write(self, address: int, size: int, value: int) -> None:
        """Write `size` bytes at `address`."""
        found = self._find(address)
        if found and address + size <= found.end:
            with found.turn:
                found.device.write(address - found.start, size, value)
        elif size > 1:
            for at in range(size):
                self.write(address + at, 1, value >> 8 * at & 0xFF)
