"""The CMOS clock and the bytes beside it, where firmware finds the size of memory."""

from __future__ import annotations

import time

from chdebugd.vmm.layout import GIB, HOLE_START, KIB, MIB, RTC_CENTURY

SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
REG_A, REG_B, REG_C, REG_D = 10, 11, 12, 13
A_DIVIDER = 0x26  # 32.768 kHz, 1024 Hz; bit 7, update in progress, is never seen set
B_24_HOURS = 2
B_BINARY = 4
D_VALID = 0x80  # the battery is good (MC146818A, register D)


def _bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


class Rtc:
    """An MC146818 that tells UTC in BCD, unless the guest wants it binary."""

    INDEX, DATA = 0, 1

    def __init__(self, memory_size: int, n_cpus: int = 1) -> None:
        self._index = 0
        self._ram = bytearray(128)
        self._ram[REG_A], self._ram[REG_B] = A_DIVIDER, B_24_HOURS
        self._describe_memory(memory_size)
        self._ram[0x3D] = 2  # SeaBIOS: boot the hard disk first
        self._ram[0x5F] = min(n_cpus - 1, 255)  # what SeaBIOS waits for

    def _describe_memory(self, size: int) -> None:
        """In the words of a PC's BIOS and of SeaBIOS (src/hw/rtc.h)."""
        low = min(size, HOLE_START)
        above_1m = min(max(low - MIB, 0) // KIB, 0xFFFF)
        above_16m = min(max(low - 16 * MIB, 0) // (64 * KIB), 0xFFFF)
        above_4g = max(size - HOLE_START, 0) // (64 * KIB) if size > 3 * GIB else 0
        self._ram[0x15:0x17] = (640).to_bytes(2, "little")
        self._ram[0x17:0x19] = self._ram[0x30:0x32] = above_1m.to_bytes(2, "little")
        self._ram[0x34:0x36] = above_16m.to_bytes(2, "little")
        self._ram[0x5B:0x5E] = above_4g.to_bytes(3, "little")

    def read(self, offset: int, size: int) -> int:
        """The byte under the index; the index itself cannot be read."""
        if offset == self.INDEX:
            return 0xFF
        now = time.gmtime()
        clock = {
            SECONDS: now.tm_sec,
            MINUTES: now.tm_min,
            HOURS: now.tm_hour,
            WEEKDAY: (now.tm_wday + 1) % 7 + 1,
            DAY: now.tm_mday,
            MONTH: now.tm_mon,
            YEAR: now.tm_year % 100,
            RTC_CENTURY: now.tm_year // 100,
        }
        if self._index in clock:
            value = clock[self._index]
            return value if self._ram[REG_B] & B_BINARY else _bcd(value)
        return {REG_C: 0, REG_D: D_VALID}.get(self._index, self._ram[self._index])

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the index, or keep the byte; the clock itself goes on as it is."""
        if offset == self.INDEX:
            self._index = value & 0x7F
        elif self._index not in (REG_C, REG_D):
            self._ram[self._index] = value & (0x7F if self._index == REG_A else 0xFF)
