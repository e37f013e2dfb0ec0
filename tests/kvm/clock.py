"""The guest's own TSC beside the host's stamps of the same marks."""

from __future__ import annotations

import os
import struct
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

from chdebugd.trace.event import Event
from chdebugd.trace.ring import Ring
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.kvm import EXITED, Kvm
from chdebugd.vmm.machine import Machine, MachineConfig, Wakers
from chdebugd.vmm.self_test import (
    OUT_0X80,
    OUT_0X81,
    PAGE,
    RESET_VECTOR,
    TO_PAGE_START,
    measure_exit_cost,
    scratch_vcpu,
)
from chdebugd.vmm.vcpu_fd import VcpuFd
from tests.guests import SHUTDOWN, STAMP_PAUSES, STAMPS_MAX, rom, stamped_marks
from tests.kvm.conftest import MIB, TIMEOUT, drain, image_of

SLEW = 0.001  # CLOCK_MONOTONIC may be slewed by 500 ppm (adjtimex(2)); a TSC is known to the kHz
WINDOW = 50  # marks in which the slew stays what it is
ROUNDS = 40  # of a search that leaves 2/3 of the slew each time


@dataclass(frozen=True)
class StampedMarks:
    """What both clocks say of the same marks."""

    host: list[int]
    """The stamp of each mark, in nanoseconds."""
    guest: list[float]
    """The guest's time right before each mark, in nanoseconds of an epoch of its own."""
    exit_cost_nsec: int
    """The median, right before."""

    def errors(self) -> list[float]:
        """By how much each of the host's deltas between marks differs from the guest's."""
        deltas = zip(pairwise(self.host), pairwise(self.guest), strict=True)
        return [abs((after - before) - (then - first)) for (before, after), (first, then) in deltas]

    def calm_errors(self) -> list[float]:
        """Those between marks at which the host did nothing else.

        The guest tells which: other work between its note of a mark and that mark's stamp lets the
        guest wait for its next note, by its own clock. The stamps have no say in it.
        """
        spans = [then - first for first, then in pairwise(self.guest)]
        least = [min(spans[turns::STAMP_PAUSES]) for turns in range(STAMP_PAUSES)]
        at_most = [
            least[mark % STAMP_PAUSES] + self.exit_cost_nsec / 2 for mark in range(len(spans))
        ]
        calm = [span <= limit for span, limit in zip(spans, at_most, strict=True)]
        both = [here and behind for here, behind in pairwise(calm)]
        return [error for error, is_calm in zip(self.errors(), both, strict=False) if is_calm]

    def room_nsec(self) -> float:
        """How far the stamps could move together, each between its mark and the guest's next note.

        Negative where one of them came too early or too late, whatever the epochs.
        """
        starts = range(0, len(self.host) - 1, WINDOW)
        return min(
            _room_nsec(self.host[at:][:WINDOW], self.guest[at:][: WINDOW + 1]) for at in starts
        )


def _room_nsec(stamps: list[int], notes: list[float]) -> float:
    """At the rate of the host's clock that leaves the most; it is concave over the rate."""
    low, high = 1 - SLEW, 1 + SLEW
    for _ in range(ROUNDS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if _room_at(left, stamps, notes) < _room_at(right, stamps, notes):
            low = left
        else:
            high = right
    return _room_at(low, stamps, notes)


def _room_at(rate: float, stamps: list[int], notes: list[float]) -> float:
    host = [stamp - stamps[0] for stamp in stamps]
    guest = [rate * (note - notes[0]) for note in notes]
    behind_mark = min(stamp - note for stamp, note in zip(host, guest, strict=False))
    return behind_mark - max(stamp - note for stamp, note in zip(host, guest[1:], strict=False))


def stamp_marks(kvm: Kvm) -> StampedMarks:
    """Run the guest that notes its own time before each mark."""
    exit_cost = measure_exit_cost(kvm).nsec
    khz = _tsc_khz(kvm)
    host, tsc = _run(kvm)
    assert len(host) == len(tsc) == STAMPS_MAX
    return StampedMarks(host, [1e6 * ticks / khz for ticks in tsc], exit_cost)


def _tsc_khz(kvm: Kvm) -> int:
    with kvm.create_vm() as vm, VcpuFd(vm, 0) as vcpu:
        return vcpu.ioctl_value("KVM_GET_TSC_KHZ")


def _run(kvm: Kvm) -> tuple[list[int], list[int]]:
    """The host's stamps in nanoseconds, and the guest's in ticks."""
    image, ring, ended = image_of(rom(stamped_marks(STAMPS_MAX) + SHUTDOWN)), Ring.create(), False
    told = bytearray()
    over = threading.Event()
    config = MachineConfig(16 * MIB, 1, BootSource(firmware=image), firmware_debug=told.extend)
    ring.start_boot(time.monotonic_ns(), time.monotonic_ns())
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    machine = Machine(kvm, config, ring, Wakers(wake, wake), ended=over.set, phase=lambda _: None)
    try:
        machine.start()
        ended = over.wait(TIMEOUT)
    finally:
        machine.close()
        os.close(image.fd)
        os.close(wake)
    assert ended, "the guest hangs"
    events: list[Event] = []
    drain(ring, events)
    ring.close()
    ticks = [tsc for (tsc,) in struct.iter_unpack("<Q", told)]
    return [event.elapsed_nsec for event in events], ticks


def enclose_marks(kvm: Kvm, ring: Ring) -> list[tuple[int, int, int]]:
    """Of each mark: before the guest goes on to it, behind it, and its stamp; CLOCK_MONOTONIC."""
    page = ((OUT_0X80 + OUT_0X81) * (RESET_VECTOR // 4) + TO_PAGE_START).ljust(PAGE, b"\xf4")
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    around = []
    with scratch_vcpu(kvm, page) as vcpu:
        vcpu.connect(ring.address, wake, wake)
        ring.start_boot(0, 0)
        for _ in range(STAMPS_MAX):
            before = time.monotonic_ns()
            assert vcpu.run() == EXITED
            around.append((before, time.monotonic_ns()))
    os.close(wake)
    stamps = [event.elapsed_nsec for event in drain(ring, [])]
    return [(*times, stamp) for times, stamp in zip(around, stamps, strict=True)]
