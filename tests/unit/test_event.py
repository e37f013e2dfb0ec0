"""What an event says, for people and for programs."""

from __future__ import annotations

import pytest

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
