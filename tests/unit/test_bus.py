"""Which device answers at an address, and what answers where there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chdebugd.vmm.bus import Bus


class Memory:
    """Bytes that keep what was written, and how it came."""

    def __init__(self, size: int, fill: int = 0) -> None:
        self.bytes = bytearray([fill] * size)
        self.accesses: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append((offset, size))
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append((offset, size))
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")


def test_a_device_sees_offsets_and_whole_accesses() -> None:
    bus, memory = Bus(), Memory(8)
    bus.insert(memory, 0x3F8, 8)

    bus.write(0x3FA, 4, 0x44332211)

    assert bus.read(0x3FA, 2) == 0x2211
    assert memory.accesses == [(2, 4), (2, 2)]


def test_nobody_answers_all_ones() -> None:
    bus = Bus()
    bus.write(0x80, 4, 0)

    assert [bus.read(0x80, size) for size in (1, 2, 4, 8)] == [
        0xFF,
        0xFFFF,
        0xFFFF_FFFF,
        0xFFFF_FFFF_FFFF_FFFF,
    ]


def test_an_access_over_an_edge_is_split_into_bytes() -> None:
    bus, low, high = Bus(), Memory(2), Memory(1)
    bus.insert(low, 0x10, 2)
    bus.insert(high, 0x13, 1)

    bus.write(0x11, 4, 0x44332211)

    assert (low.bytes[1], high.bytes[0]) == (0x11, 0x33)
    assert bus.read(0x11, 4) == 0xFF33FF11
    assert {size for _, size in low.accesses + high.accesses} == {1}


@pytest.mark.parametrize(("start", "length"), [(0x12, 1), (0x0F, 2), (0x0F, 9), (0x13, 4), (0, 0)])
def test_a_range_that_is_taken_or_empty_is_refused(start: int, length: int) -> None:
    bus = Bus()
    bus.insert(Memory(4), 0x10, 4)

    with pytest.raises(ValueError, match="empty or taken"):
        bus.insert(Memory(1), start, length)


def test_a_device_that_is_taken_out_answers_no_more() -> None:
    bus, memory = Bus(), Memory(4)
    bus.insert(memory, 0x10, 2)
    bus.insert(memory, 0x20, 2)
    bus.remove(memory)

    assert bus.read(0x10, 1) == bus.read(0x20, 1) == 0xFF


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), max_size=8),
    st.integers(0, 64),
    st.sampled_from([1, 2, 4, 8]),
)
def test_a_read_is_its_bytes_whoever_holds_them(
    ranges: list[tuple[int, int]], address: int, size: int
) -> None:
    bus, expected = Bus(), bytearray([0xFF] * 80)
    for number, (start, length) in enumerate(ranges):
        try:
            bus.insert(Memory(length, number), start, length)
        except ValueError:
            continue
        expected[start : start + length] = bytes([number] * length)

    assert bus.read(address, size) == int.from_bytes(expected[address : address + size], "little")
