"""PCI bus 0 behind configuration ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chdebugd.errors import LimitExceededError
from chdebugd.vmm.layout import PCI_SLOTS

ENABLE = 1 << 31
HOST_BRIDGE_CLASS = 0x060000


class Function(Protocol):
    """One function's configuration space; offsets are bytes, accesses aligned in 4."""

    def config_read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes."""

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes."""


class ConfigSpace:
    """256 bytes of registers with a mask of what a guest may change."""

    def __init__(self, vendor: int, device: int, class_code: int, revision: int = 0) -> None:
        self.bytes = bytearray(256)
        self.writable = bytearray(256)
        self.put(0x00, 2, vendor)
        self.put(0x02, 2, device)
        self.put(0x08, 4, class_code << 8 | revision)

    def put(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        """Set a register and the bits that a guest may change."""
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")
        self.writable[offset : offset + size] = writable.to_bytes(size, "little")

    def get(self, offset: int, size: int) -> int:
        """A register's value."""
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def config_read(self, offset: int, size: int) -> int:
        """What a guest reads."""
        return self.get(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """What a guest may change, it changes."""
        mask = int.from_bytes(self.writable[offset : offset + size], "little")
        new = self.get(offset, size) & ~mask | value & mask
        self.bytes[offset : offset + size] = new.to_bytes(size, "little")


def host_bridge() -> ConfigSpace:
    """The bridge by which firmware knows the platform: Intel 82441FX, as QEMU's pc shows it.

    Not the newer 82G33: firmware that finds that one moves configuration space into memory.
    """
    bridge = ConfigSpace(0x8086, 0x1237, HOST_BRIDGE_CLASS, revision=2)
    bridge.put(0x2C, 4, 0x1100_1AF4)  # subsystem: SeaBIOS looks at it
    bridge.put(0x58, 4, 0, 0xFFFF_FF00)  # PAM: shadow RAM is always writable here
    bridge.put(0x5C, 4, 0, 0xFFFF_FFFF)
    return bridge


class PciConfig:
    """The two port groups, and the reset register among them. An empty slot reads all ones."""

    ADDRESS, RESET, DATA = 0, 1, 4
    RESET_CPU = 4  # Intel ICH9, 13.7.5

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self._address = 0
        self._functions: dict[int, Function] = {0: host_bridge()}

    def next_slot(self) -> int:
        """The next free slot of bus 0; raises LimitExceededError."""
        slot = len(self._functions)
        if slot >= PCI_SLOTS:
            raise LimitExceededError(
                f"The VM has more than {PCI_SLOTS - 1} disks, taps and the like; give it fewer"
            )
        return slot

    def add(self, slot: int, function: Function) -> None:
        """Plug `function` into a free slot of bus 0."""
        self._functions[slot] = function

    def read(self, offset: int, size: int) -> int:
        """The address as last written, or the register it names."""
        if offset < self.DATA:
            return self._address >> 8 * offset
        function, register = self._target(offset)
        if function is None or register + size > 256:
            return (1 << 8 * size) - 1
        return function.config_read(register, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the address (whole words only) or write the register it names."""
        if offset < self.DATA:
            if offset == self.ADDRESS and size == 4:
                self._address = value & ~3
            elif offset == self.RESET and size == 1 and value & self.RESET_CPU:
                self._reset()
            return
        function, register = self._target(offset)
        if function is not None and register + size <= 256:
            function.config_write(register, size, value)

    def _target(self, offset: int) -> tuple[Function | None, int]:
        register = self._address & 0xFC | offset - self.DATA
        bus, slot = self._address >> 16 & 0xFF, self._address >> 11 & 0x1F
        number = self._address >> 8 & 7
        if not self._address & ENABLE or bus or number:
            return None, register
        return self._functions.get(slot), register
