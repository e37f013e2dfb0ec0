"""The CMOS clock as firmware reads it."""

from __future__ import annotations

import time

import pytest

from chdebugd.vmm.devices.rtc import B_24_HOURS, B_BINARY, REG_B, REG_C, REG_D, Rtc

MIB, GIB = 1 << 20, 1 << 30
YEAR = 9


def get(rtc: Rtc, index: int) -> int:
    rtc.write(Rtc.INDEX, 1, index)
    return rtc.read(Rtc.DATA, 1)


def put(rtc: Rtc, index: int, value: int) -> None:
    rtc.write(Rtc.INDEX, 1, index)
    rtc.write(Rtc.DATA, 1, value)


def memory_of(rtc: Rtc) -> int:
    """As SeaBIOS works it out (src/fw/paravirt.c)."""
    above_16m = get(rtc, 0x34) | get(rtc, 0x35) << 8
    low = above_16m * 64 * 1024 + 16 * MIB
    if not above_16m:
        low = (get(rtc, 0x30) | get(rtc, 0x31) << 8) * 1024 + MIB
    high = get(rtc, 0x5B) | get(rtc, 0x5C) << 8 | get(rtc, 0x5D) << 16
    return low + high * 64 * 1024


@pytest.mark.parametrize("size", [2 * MIB, 16 * MIB, 512 * MIB, 3 * GIB, 4 * GIB, 64 * GIB])
def test_firmware_finds_the_memory(size: int) -> None:
    assert memory_of(Rtc(size)) == size


def test_the_clock_is_utc_in_bcd_or_binary() -> None:
    rtc = Rtc(MIB)
    year = time.gmtime().tm_year % 100

    assert get(rtc, YEAR) in (year // 10 << 4 | year % 10, (year + 1) // 10 << 4 | (year + 1) % 10)
    put(rtc, REG_B, B_24_HOURS | B_BINARY)
    assert get(rtc, YEAR) in (year, year + 1)


def test_the_battery_is_good_and_nobody_waits() -> None:
    rtc = Rtc(MIB)

    assert get(rtc, REG_D) == 0x80
    assert get(rtc, REG_C) == 0
    put(rtc, REG_D, 0)
    assert get(rtc, REG_D) == 0x80


def test_the_rest_is_memory_and_bit_7_of_the_index_is_none_of_it() -> None:
    rtc = Rtc(MIB)
    put(rtc, 0x70, 0x5A)

    assert get(rtc, 0x70) == get(rtc, 0xF0) == 0x5A
    assert rtc.read(Rtc.INDEX, 1) == 0xFF
