"""The data path of one virtio device: a thread in C. The only importer of the extension."""

from __future__ import annotations

import os
from typing import Self

from chdebugd.vmm.memory import Region
from chdebugd.vmm.virtio._engine import ffi, lib
from chdebugd.vmm.virtio.device import VirtioDevice

QUEUE_MAX: int = lib.CHD_QUEUE_MAX
NO_VECTOR: int = lib.CHD_NO_VECTOR


class SharedLine:
    """A GSI that several devices hold high, each by a bit of its own."""

    def __init__(self, vm_fd: int, gsi: int) -> None:
        self.c = ffi.new("struct chd_line *")
        self.c.vm_fd, self.c.gsi = vm_fd, gsi
        self._n_bits = 0
        lib.chd_line_init(self.c)

    def next_bit(self) -> int:
        """A bit for one more device."""
        self._n_bits += 1
        return 1 << (self._n_bits - 1)


class Engine:
    """Serves the queues of `device` in guest RAM until it is closed.

    All methods may be called from any thread but the engine's own; what changes queues waits for
    the request that is being served.
    """

    def __init__(
        self,
        device: VirtioDevice,
        vm_fd: int,
        ram: list[Region],
        line: SharedLine,
        wake_fd: int,
    ) -> None:
        """Start the thread, which writes eventfd `wake_fd` at the first failure; raises OSError."""
        self.label = device.label
        self.n_queues = device.n_queues
        self.n_vectors = device.n_queues + 1
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._line = line
        self._c = ffi.new("struct chd_engine *")
        self._c.kind = getattr(lib, device.engine_kind)
        self._c.vm_fd, self._c.kick, self._c.n_queues = vm_fd, self.kick_fd, device.n_queues
        self._c.line, self._c.line_bit = line.c, line.next_bit()
        for place, region in zip(self._c.ram.ranges, ram, strict=False):
            place.gpa, place.size = region.gpa, region.size
            place.host = ffi.cast("uint8_t *", region.address)
        if device.engine_kind == "CHD_NET":
            self._packet = ffi.new("uint8_t[]", lib.CHD_PACKET_MAX)
            self._c.net.packet = self._packet
        self._c.block.wake = wake_fd
        device.prepare(self._c)
        self._check(lib.chd_engine_start(self._c, device.label.encode()), "pthread_create")

    @staticmethod
    def _check(result: int, call: str) -> None:
        if result < 0:
            raise OSError(-result, f"{call}: {os.strerror(-result)}")

    def kick(self) -> None:
        """Say that a queue has something, where no ioeventfd did."""
        os.eventfd_write(self.kick_fd, 1)

    def hold(self) -> None:
        """Let the thread stand still between two requests; it does when this returns."""
        lib.chd_engine_hold(self._c)

    def release(self) -> None:
        """Undo one `hold`."""
        lib.chd_engine_release(self._c)

    def accept(self, features: int) -> None:
        """What the driver accepted; before any queue starts."""
        self._c.features = features

    def start_queue(self, index: int, size: int, table: int, avail: int, used: int) -> None:
        """Serve a queue at these guest addresses; one that is set up wrongly breaks the device."""
        lib.chd_engine_start_queue(self._c, index, size, table, avail, used)

    def reset(self) -> None:
        """Forget all queues, features and pending causes of interrupts."""
        lib.chd_engine_reset(self._c)

    @property
    def is_broken(self) -> bool:
        """Whether the driver broke a rule of the protocol: only a reset helps."""
        return bool(lib.chd_engine_is_broken(self._c))

    # Interrupts

    def route_config(self, vector: int) -> None:
        """Tell of configuration changes by this MSI-X vector."""
        self._c.config_vector = vector

    def route_queue(self, index: int, vector: int) -> None:
        """Tell of used buffers by this MSI-X vector."""
        self._c.queues[index].vector = vector

    def set_vector(self, index: int, address: int, data: int, *, masked: bool) -> None:
        """Program one MSI-X vector; what is pending there is sent once it may be."""
        lib.chd_engine_set_vector(self._c, index, address, data, masked)

    def set_interrupts(self, *, msix_on: bool, msix_masked: bool, intx_off: bool) -> None:
        """Choose between MSI-X and the wire."""
        lib.chd_engine_set_interrupts(self._c, msix_on, msix_masked, intx_off)

    @property
    def pending_vectors(self) -> int:
        """A bit for each vector that waits for its mask to go."""
        return sum(1 << at for at in range(self.n_vectors) if self._c.vectors[at].pending)

    def take_interrupt_status(self) -> int:
        """The INTx causes, which this clears."""
        return int(lib.chd_engine_take_isr(self._c))

    @property
    def failures(self) -> tuple[int, int]:
        """How many requests the host failed to serve, and the errno of the last."""
        return self._c.block.n_errors, self._c.block.error

    # The end

    def close(self) -> None:
        """End the thread; guest memory may go after this. Twice is fine."""
        lib.chd_engine_stop(self._c)
        fd, self.kick_fd = self.kick_fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
