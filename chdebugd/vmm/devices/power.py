"""Ways to end a run: reset and switch-off ports, the power button; and the PM timer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntFlag

from chdebugd.vmm.devices import Wire

PM_TIMER_HZ = 3_579_545  # ACPI 4.8.3.3
PM_TIMER_SIZE = 4  # bytes


class SleepPort:
    """One port: 1 resets, SLP_EN with type 5 switches off (ACPI 4.8.3.7)."""

    RESET = 0x01
    SOFT_OFF_TYPE = 5
    SOFT_OFF = 1 << 5 | SOFT_OFF_TYPE << 2

    def __init__(self, reset: Callable[[], None], shutdown: Callable[[], None]) -> None:
        self._reset = reset
        self._shutdown = shutdown

    def read(self, offset: int, size: int) -> int:
        """Nothing to tell."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Act on the two known values."""
        if value == self.RESET:
            self._reset()
        elif value == self.SOFT_OFF:
            self._shutdown()


class Port92:
    """System control port A: bit 0 resets, bit 1 is the A20 gate, always open here."""

    A20 = 2

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset

    def read(self, offset: int, size: int) -> int:
        """A20 is on."""
        return self.A20

    def write(self, offset: int, size: int, value: int) -> None:
        """Reset where bit 0 says so."""
        if value & 1:
            self._reset()


class PmTimer:
    """The ACPI power management timer: 32 bits at 3.579545 MHz."""

    def read(self, offset: int, size: int) -> int:
        """The count now, from byte `offset` of it."""
        count = time.monotonic_ns() * PM_TIMER_HZ // 1_000_000_000 & 0xFFFF_FFFF
        return count >> 8 * offset

    def write(self, offset: int, size: int, value: int) -> None:
        """The timer cannot be set."""


class Pm1Event(IntFlag):
    """Bits of PM1 status and enable that we have (ACPI 4.8.3.1)."""

    TIMER = 1 << 0
    POWER_BUTTON = 1 << 8


class Pm1:
    """PM1 status, enable and control: the power button and soft-off (ACPI 4.8.3)."""

    STATUS, ENABLE, CONTROL = 0, 2, 4
    EVENT_SIZE, CONTROL_SIZE = 4, 2  # bytes
    SCI_ENABLE = 1
    SLEEP_ENABLE = 1 << 13

    def __init__(self, sci: Wire, shutdown: Callable[[], None]) -> None:
        self._sci = sci
        self._shutdown = shutdown
        self._status = self._enable = 0
        self._lock = threading.Lock()  # the button is pressed on a thread of its own

    @property
    def listens(self) -> bool:
        """Whether an operating system waits for the power button."""
        return bool(self._enable & Pm1Event.POWER_BUTTON)

    def press_power_button(self) -> None:
        """Tell the operating system that someone wants it to shut down."""
        with self._lock:
            self._status |= Pm1Event.POWER_BUTTON
            self._update()

    def read(self, offset: int, size: int) -> int:
        """The registers as six bytes, from `offset` on."""
        whole = self._status | self._enable << 16 | self.SCI_ENABLE << 32
        return whole >> 8 * offset

    def write(self, offset: int, size: int, value: int) -> None:
        """Status bits are cleared by writing ones; SLP_EN of any type is soft-off."""
        if offset == self.CONTROL and value & self.SLEEP_ENABLE:
            self._shutdown()
        with self._lock:
            if offset == self.STATUS:
                self._status &= ~value
            elif offset == self.ENABLE:
                self._enable = value & 0xFFFF
            self._update()

    def _update(self) -> None:
        self._sci(bool(self._status & self._enable))
