"""Guest memory: RAM below and above the device hole, and ROM that ends at 4 GiB."""

from __future__ import annotations

import mmap
from contextlib import ExitStack
from typing import NamedTuple

from chdebugd.errors import LimitExceededError
from chdebugd.vmm.kvm import Vm, address_of
from chdebugd.vmm.layout import HOLE_END, HOLE_START

PAGE = 4096
MAP_NORESERVE = 0x4000  # mmap(2); Python 3.11 lacks the name
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE


class GuestAddressError(Exception):
    """An access reached outside guest memory."""


class Region(NamedTuple):
    """Guest physical addresses `gpa` to `gpa + size`, backed by this process."""

    gpa: int
    size: int
    view: memoryview
    address: int
    readonly: bool = False

    def holds(self, gpa: int, size: int) -> bool:
        """Whether all of the access lies inside."""
        return self.gpa <= gpa and gpa + size <= self.gpa + self.size


class GuestMemory:
    """All memory of one machine. Addresses are guest physical, in bytes."""

    def __init__(self, vm: Vm, size: int) -> None:
        """Map `size` bytes of RAM, a multiple of 4096; raises LimitExceededError."""
        self.size = size
        self.regions: list[Region] = []
        self._vm = vm
        with ExitStack() as stack:
            self._stack = stack
            self._add(0, min(size, HOLE_START))
            if size > HOLE_START:
                self._add(HOLE_END, size - HOLE_START)
            self._stack = stack.pop_all()

    @property
    def low_end(self) -> int:
        """The first address after RAM below the hole."""
        return min(self.size, HOLE_START)

    @property
    def ram(self) -> list[Region]:
        """The regions that devices may read and write."""
        return [region for region in self.regions if not region.readonly]

    def add_rom(self, image: bytes) -> None:
        """Map `image`, padded at its front to whole pages, to end at 4 GiB, read-only."""
        size = -(-len(image) // PAGE) * PAGE
        rom = self._add(HOLE_END - size, size, readonly=True)
        rom.view[size - len(image) :] = image

    def _add(self, gpa: int, size: int, *, readonly: bool = False) -> Region:
        try:
            memory = mmap.mmap(-1, size, flags=_PRIVATE)
        except OSError:
            raise LimitExceededError(
                f"The host cannot map {size} bytes of guest memory; give the VM less"
            ) from None
        self._stack.callback(memory.close)
        view = memoryview(memory)
        self._stack.callback(view.release)
        address, pin = address_of(memory)
        self._stack.callback(pin)
        self._vm.add_memory(gpa, size, address, readonly=readonly)
        region = Region(gpa, size, view, address, readonly)
        self.regions.append(region)
        return region

    def view(self, gpa: int, size: int) -> memoryview:
        """The bytes themselves, writable; raises GuestAddressError outside of one region."""
        for region in self.regions:
            if region.holds(gpa, size):
                return region.view[gpa - region.gpa : gpa - region.gpa + size]
        raise GuestAddressError(f"{size} bytes at {gpa:#x} are not in guest memory")

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes; raises GuestAddressError."""
        return bytes(self.view(gpa, size))

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Put `data` at `gpa`; raises GuestAddressError."""
        self.view(gpa, len(data))[:] = data

    def close(self) -> None:
        """Unmap all. The VM must be closed, and no view of the memory left."""
        self._stack.close()
