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
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.machine import Machine, MachineConfig, Wakers
from chdebugd.vmm.self_test import measure_exit_cost
from tests.guests import SHUTDOWN, STAMPS_MAX, rom, stamped_marks
from tests.kvm.conftest import MIB, TIMEOUT, drain, image_of


@dataclass(frozen=True)
class ClockErrors:
    """By how much the host's deltas between marks differ from the guest's, in order of size."""

    nsec: list[float]
    exit_cost_nsec: int
    """The median, right before."""

    def percentile(self, percent: int) -> float:
        """The error that `percent` of all do not exceed."""
        return self.nsec[len(self.nsec) * percent // 100]


def clock_errors(kvm: Kvm) -> ClockErrors:
    """Run the guest that stamps its marks."""
    exit_cost = measure_exit_cost(kvm).nsec
    khz = _tsc_khz(kvm)
    host, tsc = _run(kvm)
    assert len(host) == len(tsc) == STAMPS_MAX
    guest = [1e6 * ticks / khz for ticks in tsc]
    deltas = zip(pairwise(host), pairwise(guest), strict=True)
    errors = [abs((after - before) - (then - first)) for (before, after), (first, then) in deltas]
    return ClockErrors(sorted(errors), exit_cost)


def _tsc_khz(kvm: Kvm) -> int:
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
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
