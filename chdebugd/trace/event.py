"""An event: one byte that a guest wrote to I/O port 0x80."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Component(StrEnum):
    """Who wrote the byte, by the range its value lies in."""

    FIRMWARE = "Firmware"
    BOOTLOADER = "Bootloader"
    KERNEL = "Kernel"
    USERSPACE = "Userspace"
    CUSTOM = "Custom"


RANGES = (
    (Component.FIRMWARE, range(0x00, 0x20)),
    (Component.BOOTLOADER, range(0x20, 0x40)),
    (Component.KERNEL, range(0x40, 0x60)),
    (Component.USERSPACE, range(0x60, 0x80)),
    (Component.CUSTOM, range(0x80, 0x100)),
)

COMPONENT_OF: tuple[str, ...] = tuple(component.value for component, codes in RANGES for _ in codes)
"""The component's name by code, for all 256 codes."""

TEXT_OF: tuple[str, ...] = tuple(
    f"[Debug I/O port: {component} code {code:#x}]" for code, component in enumerate(COMPONENT_OF)
)
"""The head of an event's message by code, as cloud-hypervisor writes it."""


class Event(NamedTuple):
    """One record of the ring, in the order of its fields there."""

    ticket: int
    """Its place in the ring plus 1; counts on over boots."""
    elapsed_nsec: int
    """CLOCK_MONOTONIC since the start of its boot."""
    seq: int
    """From 1 in each boot."""
    boot: int
    """From 1 in each run of the VM process."""
    vcpu: int
    code: int

    @property
    def component(self) -> str:
        """The name of the component, as in the COMPONENT field."""
        return COMPONENT_OF[self.code]


def seconds(nsec: int) -> str:
    """Nanoseconds as seconds with six true decimals, rounded down: `1.402744`."""
    return f"{nsec // 1_000_000_000}.{nsec // 1000 % 1_000_000:06d}"


def message(event: Event) -> str:
    """The event for people: `[Debug I/O port: Firmware code 0x0] 0.019004 seconds`."""
    return f"{TEXT_OF[event.code]} {seconds(event.elapsed_nsec)} seconds"
