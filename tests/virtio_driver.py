"""A virtio driver in Python: what a guest's driver does, done on a machine's buses and memory."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

from chdebugd.vmm.machine import Machine

TIMEOUT = 20  # seconds that a request may take
RINGS = 0x200000  # guest address of the first queue's rings
BUFFERS = 0x300000
QUEUE_STEP = 0x10000
AVAIL, USED = 0x4000, 0x8000  # from a queue's rings
CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
NEXT, WRITE, INDIRECT = 1, 2, 4
F_INDIRECT, F_EVENT_IDX, F_VERSION_1 = 1 << 28, 1 << 29, 1 << 32


@dataclass
class Capability:
    """One vendor capability of virtio."""

    offset: int
    size: int


class PciDevice:
    """Configuration space of one slot, and its BAR 0."""

    def __init__(self, machine: Machine, slot: int) -> None:
        self.machine = machine
        self._address = 1 << 31 | slot << 11
        self.capabilities: dict[int, Capability] = {}
        self.msix_at = 0
        at = self.config_read(0x34, 1)
        while at:
            if self.config_read(at, 1) == 0x09:
                kind = self.config_read(at + 3, 1)
                place = (self.config_read(at + 8, 4), self.config_read(at + 12, 4))
                self.capabilities[kind] = Capability(*place)
            elif self.config_read(at, 1) == 0x11:
                self.msix_at = at
            at = self.config_read(at + 1, 1)

    def config_read(self, offset: int, size: int) -> int:
        self.machine.ports.write(CONFIG_ADDRESS, 4, self._address | offset & ~3)
        return self.machine.ports.read(CONFIG_DATA + offset % 4, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.machine.ports.write(CONFIG_ADDRESS, 4, self._address | offset & ~3)
        self.machine.ports.write(CONFIG_DATA + offset % 4, size, value)

    @property
    def bar(self) -> int:
        return self.config_read(0x10, 4) & ~0xF

    def read(self, offset: int, size: int) -> int:
        return self.machine.mmio.read(self.bar + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.machine.mmio.write(self.bar + offset, size, value)


class VirtioDriver(PciDevice):
    """The steps of virtio 1.2, section 3.1.1, one by one."""

    def __init__(self, machine: Machine, slot: int) -> None:
        super().__init__(machine, slot)
        self._common = self.capabilities[1].offset
        self._next: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self.size = 0
        self.features = 0

    def common(self, offset: int, size: int) -> int:
        return self.read(self._common + offset, size)

    def set_common(self, offset: int, size: int, value: int) -> None:
        self.write(self._common + offset, size, value)

    @property
    def status(self) -> int:
        return self.common(0x14, 1)

    @property
    def offered(self) -> int:
        words = []
        for select in (0, 1):
            self.set_common(0, 4, select)
            words.append(self.common(4, 4))
        return words[0] | words[1] << 32

    def device_config(self, offset: int, size: int) -> int:
        return self.read(self.capabilities[4].offset + offset, size)

    def reset(self) -> None:
        self.set_common(0x14, 1, 0)
        assert self.status == 0

    def negotiate(self, features: int) -> int:
        """Up to FEATURES_OK; returns the status."""
        self.set_common(0x14, 1, ACKNOWLEDGE)
        self.set_common(0x14, 1, ACKNOWLEDGE | DRIVER)
        for select in (0, 1):
            self.set_common(8, 4, select)
            self.set_common(12, 4, features >> 32 * select & 0xFFFF_FFFF)
        self.set_common(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        self.features = features
        return self.status

    def set_up_queue(self, index: int, size: int = 16, rings: int | None = None) -> None:
        at = RINGS + index * QUEUE_STEP if rings is None else rings
        self.set_common(0x16, 2, index)
        self.set_common(0x18, 2, size)
        for register, place in ((0x20, at), (0x28, at + AVAIL), (0x30, at + USED)):
            self.set_common(register, 4, place & 0xFFFF_FFFF)
            self.set_common(register + 4, 4, place >> 32)
        self.set_common(0x1C, 2, 1)
        self._next[index] = self._seen[index] = 0
        self.size = size

    def start(self, features: int = F_VERSION_1, *, queues: int = 1, size: int = 16) -> None:
        """All of it."""
        self.reset()
        assert self.negotiate(features) & FEATURES_OK
        for index in range(queues):
            self.set_up_queue(index, size)
            memory, at = self.machine.memory, RINGS + index * QUEUE_STEP
            memory.write(at, bytes(QUEUE_STEP))
        self.set_common(0x14, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    # Requests

    def describe(self, index: int, at: int, address: int, length: int, flags: int, to: int) -> None:
        entry = struct.pack("<QIHH", address, length, flags, to)
        self.machine.memory.write(RINGS + index * QUEUE_STEP + 16 * at, entry)

    def offer(self, head: int, index: int = 0, *, notify: bool = True) -> None:
        memory, rings = self.machine.memory, RINGS + index * QUEUE_STEP
        at = self._next[index]
        memory.write(rings + AVAIL + 4 + 2 * (at % self.size), struct.pack("<H", head))
        self._next[index] = at + 1 & 0xFFFF
        memory.write(rings + AVAIL + 2, struct.pack("<H", self._next[index]))
        if notify:
            self.notify(index)

    def notify(self, index: int = 0) -> None:
        self.write(self.capabilities[2].offset + 4 * index, 2, index)

    def used_index(self, index: int = 0) -> int:
        raw = self.machine.memory.read(RINGS + index * QUEUE_STEP + USED + 2, 2)
        return int.from_bytes(raw, "little")

    def collect(self, index: int = 0) -> tuple[int, int]:
        """Wait for one used chain; returns its head and length."""
        deadline = time.monotonic() + TIMEOUT
        while self.used_index(index) == self._seen[index]:
            assert not self.status & NEEDS_RESET, "the device gave up"
            assert time.monotonic() < deadline, "the device does not answer"
        at = RINGS + index * QUEUE_STEP + USED + 4 + 8 * (self._seen[index] % self.size)
        self._seen[index] = self._seen[index] + 1 & 0xFFFF
        head, length = struct.unpack("<II", self.machine.memory.read(at, 8))
        return head, length

    def request(self, out: list[bytes], room: list[int], index: int = 0) -> tuple[int, list[bytes]]:
        """One chain of parts to read and parts to fill; returns its length and what came."""
        memory = self.machine.memory
        parts = [(part, 0) for part in out] + [(bytes(size), WRITE) for size in room]
        address = BUFFERS
        places = []
        for at, (data, flags) in enumerate(parts):
            memory.write(address, data)
            flags |= NEXT if at + 1 < len(parts) else 0
            self.describe(index, at, address, len(data), flags, at + 1)
            places.append((address, len(data)))
            address += len(data) + 16
        self.offer(0, index)
        head, length = self.collect(index)
        assert head == 0
        return length, [memory.read(*place) for place in places[len(out) :]]

    def wait_broken(self) -> None:
        """Until the device says that it needs a reset."""
        deadline = time.monotonic() + TIMEOUT
        while not self.status & NEEDS_RESET:
            assert time.monotonic() < deadline, "the device took what it must refuse"


class BlockDriver(VirtioDriver):
    """Requests of a block device."""

    def block(
        self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0
    ) -> tuple[int, bytes]:
        """One request; returns its status and what came."""
        header = struct.pack("<IIQ", kind, 0, sector)
        out = [header, data] if data else [header]
        rooms = [room, 1] if room else [1]
        _, parts = self.request(out, rooms)
        return parts[-1][0], parts[0] if room else b""
