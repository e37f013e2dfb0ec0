"""A virtio device as a PCI function: capabilities, one memory BAR, MSI-X (virtio 1.2, 4.1).

BAR 0, 16 KiB of 32-bit memory:

    0x0000 common configuration   0x0400 interrupt status   0x0800 device configuration
    0x1000 notifications, 4 bytes a queue
    0x2000 MSI-X table            0x3000 MSI-X pending bits
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum

from chdebugd.vmm.devices.pci import ConfigSpace
from chdebugd.vmm.virtio.device import VirtioDevice
from chdebugd.vmm.virtio.engine import Engine
from chdebugd.vmm.virtio.transport import Transport

VENDOR, FIRST_DEVICE, MODERN = 0x1AF4, 0x1040, 1
BAR_SIZE = 0x4000
COMMON, ISR, DEVICE, NOTIFY, TABLE, PENDING = 0x0000, 0x0400, 0x0800, 0x1000, 0x2000, 0x3000
COMMON_SIZE, ISR_SIZE, AREA_SIZE = 0x38, 1, 0x400
NOTIFY_STEP = 4
ENTRY_SIZE, ENTRY_MASKED = 16, 1  # of the MSI-X table (PCI 3.0, 6.8.2)

# Configuration space (PCI 3.0, 6.1) and where our capabilities lie in it.
COMMAND, STATUS, BAR0, SUBSYSTEM, CAPABILITIES = 0x04, 0x06, 0x10, 0x2C, 0x34
INTERRUPT_LINE, INTERRUPT_PIN = 0x3C, 0x3D
MEMORY_ENABLE, BUS_MASTER, INTX_OFF = 1 << 1, 1 << 2, 1 << 10
HAS_CAPABILITIES = 1 << 4
ID_VENDOR, ID_MSIX = 0x09, 0x11
CAP_COMMON, CAP_ISR, CAP_DEVICE, CAP_NOTIFY, CAP_ACCESS, CAP_MSIX = (
    0x40,
    0x50,
    0x60,
    0x70,
    0x84,
    0x98,
)
ACCESS_BAR, ACCESS_OFFSET, ACCESS_LENGTH, ACCESS_DATA = 4, 8, 12, 16  # within CAP_ACCESS
MSIX_CONTROL = CAP_MSIX + 2
MSIX_ON, MSIX_MASKED = 1 << 15, 1 << 14


class CapType(IntEnum):
    """What a vendor capability of virtio points to (4.1.4)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI_ACCESS = 5


class VirtioFunction:
    """Configuration space and BAR of one device. `moved` is told where the BAR answers, or None."""

    def __init__(
        self,
        device: VirtioDevice,
        engine: Engine,
        *,
        gsi: int,
        bar: int,
        moved: Callable[[VirtioFunction, int | None], None],
    ) -> None:
        """`bar` is the address that the BAR has from the start, enabled, as firmware leaves it."""
        self.engine = engine
        self._config = device.config
        self._transport = Transport(device, engine)
        self._moved = moved
        self._lock = threading.RLock()
        self._table = bytearray(ENTRY_SIZE * engine.n_vectors)
        for at in range(12, len(self._table), ENTRY_SIZE):
            self._table[at] = ENTRY_MASKED
        self._space = self._lay_out(device, gsi)
        self._space.put(BAR0, 4, bar, 0xFFFF_FFFF & -BAR_SIZE)
        self._answers_at: int | None = None
        self._update()

    def _lay_out(self, device: VirtioDevice, gsi: int) -> ConfigSpace:
        device_id = FIRST_DEVICE + device.device_id
        space = ConfigSpace(VENDOR, device_id, device.class_code, revision=MODERN)
        space.put(COMMAND, 2, MEMORY_ENABLE | BUS_MASTER, MEMORY_ENABLE | BUS_MASTER | INTX_OFF)
        space.put(STATUS, 2, HAS_CAPABILITIES)
        space.put(SUBSYSTEM, 4, device_id << 16 | VENDOR)
        space.put(CAPABILITIES, 1, CAP_COMMON)
        space.put(INTERRUPT_LINE, 1, gsi, 0xFF)
        space.put(INTERRUPT_PIN, 1, 1)
        for at, following, kind, offset, size in (
            (CAP_COMMON, CAP_ISR, CapType.COMMON, COMMON, COMMON_SIZE),
            (CAP_ISR, CAP_DEVICE, CapType.ISR, ISR, ISR_SIZE),
            (CAP_DEVICE, CAP_NOTIFY, CapType.DEVICE, DEVICE, max(len(self._config), 4)),
            (CAP_NOTIFY, CAP_ACCESS, CapType.NOTIFY, NOTIFY, NOTIFY_STEP * self.engine.n_queues),
            (CAP_ACCESS, CAP_MSIX, CapType.PCI_ACCESS, 0, 0),
        ):
            length = 20 if kind in (CapType.NOTIFY, CapType.PCI_ACCESS) else 16
            space.put(at, 4, kind << 24 | length << 16 | following << 8 | ID_VENDOR)
            space.put(at + 8, 4, offset)
            space.put(at + 12, 4, size)
        space.put(CAP_NOTIFY + 16, 4, NOTIFY_STEP)
        space.put(CAP_ACCESS + ACCESS_BAR, 1, 0, 0xFF)
        space.put(CAP_ACCESS + ACCESS_OFFSET, 4, 0, 0xFFFF_FFFF)
        space.put(CAP_ACCESS + ACCESS_LENGTH, 4, 0, 0xFFFF_FFFF)
        space.put(CAP_MSIX, 2, ID_MSIX)
        space.put(MSIX_CONTROL, 2, self.engine.n_vectors - 1, MSIX_ON | MSIX_MASKED)
        space.put(CAP_MSIX + 4, 4, TABLE)
        space.put(CAP_MSIX + 8, 4, PENDING)
        return space

    @property
    def notify_offsets(self) -> list[int]:
        """Where in the BAR each queue is notified."""
        return [NOTIFY + NOTIFY_STEP * index for index in range(self.engine.n_queues)]

    # Configuration space

    def config_read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes."""
        with self._lock:
            if offset == CAP_ACCESS + ACCESS_DATA and (window := self._access_window()):
                return self.read(*window)
            return self._space.config_read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes."""
        with self._lock:
            if offset == CAP_ACCESS + ACCESS_DATA and (window := self._access_window()):
                self.write(*window, value & (1 << 8 * window[1]) - 1)
                return
            self._space.config_write(offset, size, value)
            self._update()

    def _access_window(self) -> tuple[int, int] | None:
        """Offset in the BAR and size of the access by configuration space (4.1.4.9)."""
        get = self._space.get
        offset, size = get(CAP_ACCESS + ACCESS_OFFSET, 4), get(CAP_ACCESS + ACCESS_LENGTH, 4)
        fits = size in (1, 2, 4) and offset % size == 0 and offset + size <= BAR_SIZE
        return (offset, size) if fits and get(CAP_ACCESS + ACCESS_BAR, 1) == 0 else None

    def _update(self) -> None:
        """Let the rest follow what configuration space says."""
        command, control = self._space.get(COMMAND, 2), self._space.get(MSIX_CONTROL, 2)
        self.engine.set_interrupts(
            msix_on=bool(control & MSIX_ON),
            msix_masked=bool(control & MSIX_MASKED),
            intx_off=bool(command & INTX_OFF),
        )
        address = self._space.get(BAR0, 4) if command & MEMORY_ENABLE else None
        if address != self._answers_at:
            self._answers_at = address
            self._moved(self, address)

    # The BAR

    def read(self, offset: int, size: int) -> int:
        """What the guest reads in the BAR; areas that are not there read 0."""
        with self._lock:
            if offset < COMMON_SIZE:
                return self._transport.read(offset, size)
            if offset == ISR:
                return self.engine.take_interrupt_status()
            if DEVICE <= offset < DEVICE + AREA_SIZE:
                return _part(self._config, offset - DEVICE, size)
            if TABLE <= offset < PENDING:
                return _part(self._table, offset - TABLE, size)
            if PENDING <= offset < PENDING + 8:
                return self.engine.pending_vectors >> 8 * (offset - PENDING)
            return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """What the guest writes in the BAR."""
        with self._lock:
            if offset < COMMON_SIZE:
                self._transport.write(offset, size, value)
            elif NOTIFY <= offset < NOTIFY + NOTIFY_STEP * self.engine.n_queues:
                self.engine.kick()
            elif TABLE <= offset < TABLE + len(self._table):
                self._write_table(offset - TABLE, size, value)

    def _write_table(self, offset: int, size: int, value: int) -> None:
        if offset + size > len(self._table):
            return
        self._table[offset : offset + size] = value.to_bytes(size, "little")
        for index in range(offset // ENTRY_SIZE, (offset + size - 1) // ENTRY_SIZE + 1):
            entry = self._table[index * ENTRY_SIZE : (index + 1) * ENTRY_SIZE]
            self.engine.set_vector(
                index,
                int.from_bytes(entry[0:8], "little"),
                int.from_bytes(entry[8:12], "little"),
                masked=bool(entry[12] & ENTRY_MASKED),
            )


def _part(data: bytes | bytearray, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")
