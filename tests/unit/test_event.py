"""What an event says, for people and for programs."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chdebugd.trace.event import COMPONENT_OF, Event, message, seconds


@pytest.mark.parametrize(
    ("nsec", "text"),
    [
        (0, "0.000000"),
        (19_004_000, "0.019004"),
        (999_999_999, "0.999999"),
        (1_000_000_000, "1.000000"),
        (1_402_744_000, "1.402744"),
        (59_999_999_000, "59.999999"),
        (3_601_000_001_000, "3601.000001"),
    ],
)
def test_seconds_have_their_true_fraction(nsec: int, text: str) -> None:
    assert seconds(nsec) == text


@pytest.mark.parametrize(
    ("component", "first", "last"),
    [
        ("Firmware", 0x00, 0x1F),
        ("Bootloader", 0x20, 0x3F),
        ("Kernel", 0x40, 0x5F),
        ("Userspace", 0x60, 0x7F),
        ("Custom", 0x80, 0xFF),
    ],
)
def test_a_component_is_its_whole_range(component: str, first: int, last: int) -> None:
    assert set(COMPONENT_OF[first : last + 1]) == {component}
    assert COMPONENT_OF.count(component) == last + 1 - first


def test_a_message_reads_as_cloud_hypervisor_writes_it() -> None:
    event = Event(1, 19_004_000, 1, 1, 0, 0x00)

    assert message(event) == "[Debug I/O port: Firmware code 0x0] 0.019004 seconds"


@given(st.integers(0, 1 << 64))
def test_seconds_are_the_figure_rounded_down_to_microseconds(nsec: int) -> None:
    text = seconds(nsec)

    assert len(text.split(".")[1]) == 6
    assert 0 <= Fraction(nsec, 10**9) - Fraction(text) < Fraction(1, 10**6)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_later_events_never_read_earlier(first: int, second: int) -> None:
    earlier, later = sorted((first, second))

    assert Fraction(seconds(earlier)) <= Fraction(seconds(later))
