"""The common configuration of a virtio device (virtio 1.2, sections 2.1, 3.1 and 4.1.4.3)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import NamedTuple

from chdebugd.vmm.virtio.device import F_VERSION_1, RING_FEATURES, VirtioDevice
from chdebugd.vmm.virtio.engine import NO_VECTOR, QUEUE_MAX, Engine


class Status(IntFlag):
    """How far driver and device have come."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


class Queue:
    """What the driver has set up of one queue."""

    def __init__(self, size: int = QUEUE_MAX) -> None:
        self.size = size
        self.vector = NO_VECTOR
        self.enabled = False
        self.table = self.avail = self.used = 0


class _Register(NamedTuple):
    offset: int
    size: int
    read: Callable[[], int]
    write: Callable[[int], None]


def _read_only(_: int) -> None:
    pass


class Transport:
    """The registers. A wide register may be written in parts; what is between them reads 0."""

    def __init__(self, device: VirtioDevice, engine: Engine) -> None:
        self._offered = device.features | RING_FEATURES
        self._engine = engine
        self._forget()
        self._registers = (
            _Register(0x00, 4, lambda: self._offered_word, self._set_offered_word),
            _Register(0x04, 4, lambda: self._word(self._offered, self._offered_word), _read_only),
            _Register(0x08, 4, lambda: self._accepted_word, self._set_accepted_word),
            _Register(
                0x0C,
                4,
                lambda: self._word(self._accepted, self._accepted_word),
                self._accept_word,
            ),
            _Register(0x10, 2, lambda: self._config_vector, self._set_config_vector),
            _Register(0x12, 2, lambda: engine.n_queues, _read_only),
            _Register(0x14, 1, self._read_status, self._write_status),
            _Register(0x15, 1, lambda: 0, _read_only),  # the configuration never changes
            _Register(0x16, 2, lambda: self._selected, self._select),
            _Register(0x18, 2, lambda: self._queue.size, self._set_size),
            _Register(0x1A, 2, lambda: self._queue.vector, self._set_vector),
            _Register(0x1C, 2, lambda: self._queue.enabled, self._enable),
            _Register(0x1E, 2, lambda: self._selected % engine.n_queues, _read_only),
            _Register(0x20, 8, lambda: self._queue.table, lambda v: self._place("table", v)),
            _Register(0x28, 8, lambda: self._queue.avail, lambda v: self._place("avail", v)),
            _Register(0x30, 8, lambda: self._queue.used, lambda v: self._place("used", v)),
        )
        self._whole = {(each.offset, each.size): each for each in self._registers}

    def _forget(self) -> None:
        self._status = Status(0)
        self._accepted = 0
        self._offered_word = self._accepted_word = self._selected = 0
        self._config_vector = NO_VECTOR
        self._queues = [Queue() for _ in range(self._engine.n_queues)]

    def reset(self) -> None:
        """As after power-on: no queue is served when this returns."""
        self._engine.reset()
        self._forget()

    # Access by the guest

    def _find(self, offset: int, size: int) -> _Register | None:
        # Whole ones at once: firmware that polls reads one for each sector.
        if whole := self._whole.get((offset, size)):
            return whole
        for register in self._registers:
            if register.offset <= offset and offset + size <= register.offset + register.size:
                return register
        return None

    def read(self, offset: int, size: int) -> int:
        """A register, or a part of it."""
        register = self._find(offset, size)
        return register.read() >> 8 * (offset - register.offset) if register else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """A register, or a part of it, the rest as it was."""
        register = self._find(offset, size)
        if register is None:
            return
        if size < register.size:
            shift = 8 * (offset - register.offset)
            mask = (1 << 8 * size) - 1 << shift
            value = register.read() & ~mask | value << shift
        register.write(value)

    # Features

    @staticmethod
    def _word(features: int, select: int) -> int:
        return features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    def _set_offered_word(self, value: int) -> None:
        self._offered_word = value

    def _set_accepted_word(self, value: int) -> None:
        self._accepted_word = value

    def _accept_word(self, value: int) -> None:
        if self._accepted_word < 2 and not self._status & Status.FEATURES_OK:
            shift = 32 * self._accepted_word
            self._accepted = self._accepted & ~(0xFFFF_FFFF << shift) | value << shift

    # Status

    def _read_status(self) -> int:
        return self._status | (Status.NEEDS_RESET if self._engine.is_broken else 0)

    def _write_status(self, value: int) -> None:
        """Zero resets. Features that were not offered, or none of virtio 1, are not accepted."""
        if value == 0:
            self.reset()
            return
        before, after = self._status, Status(value & 0xFF)
        accepted = self._accepted & F_VERSION_1 and not self._accepted & ~self._offered
        if not accepted:
            after &= ~Status.FEATURES_OK
        self._status = after
        if after & ~before & Status.DRIVER_OK and after & Status.FEATURES_OK:
            self._engine.accept(self._accepted)
            for index, queue in enumerate(self._queues):
                if queue.enabled:
                    self._start(index, queue)

    # Queues

    @property
    def _queue(self) -> Queue:
        """The selected queue; one that is not there has size 0 and keeps nothing."""
        if self._selected < len(self._queues):
            return self._queues[self._selected]
        return Queue(size=0)

    def _select(self, value: int) -> None:
        self._selected = value

    def _set_size(self, value: int) -> None:
        if not self._queue.enabled:
            self._queue.size = value

    def _place(self, part: str, value: int) -> None:
        if not self._queue.enabled:
            setattr(self._queue, part, value)

    def _enable(self, value: int) -> None:
        """Only a reset disables a queue again (4.1.4.3.2)."""
        queue = self._queue
        if value == 1 and not queue.enabled and queue.size:
            queue.enabled = True
            if self._status & Status.DRIVER_OK and self._selected < len(self._queues):
                self._start(self._selected, queue)

    def _start(self, index: int, queue: Queue) -> None:
        self._engine.start_queue(index, queue.size, queue.table, queue.avail, queue.used)

    # Interrupts

    def _known(self, vector: int) -> int:
        return vector if vector < self._engine.n_vectors else NO_VECTOR

    def _set_config_vector(self, value: int) -> None:
        self._config_vector = self._known(value)
        self._engine.route_config(self._config_vector)

    def _set_vector(self, value: int) -> None:
        self._queue.vector = self._known(value)
        if self._selected < len(self._queues):
            self._engine.route_queue(self._selected, self._queue.vector)
