"""Runs one guest to its end on the real /dev/kvm."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from chdebugd.trace.event import Event
from chdebugd.trace.ring import Reader, Ring
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.kvm import Kvm, init_signals
from chdebugd.vmm.machine import Machine, MachineConfig, Wakers
from chdebugd.vmm.outcome import Outcome
from tests.guests import rom

TIMEOUT = 60  # seconds; a guest that hangs fails its test
MIB = 1 << 20


@dataclass
class Run:
    """What one guest did."""

    outcome: Outcome
    events: list[Event]
    ring: Ring
    phases: list[str]

    @property
    def codes(self) -> list[int]:
        """The bytes that landed on port 0x80."""
        return [event.code for event in self.events]


def image_of(data: bytes, role: str = "firmware") -> Image:
    """An image in memory."""
    fd = os.memfd_create(role)
    os.write(fd, data)
    return Image(role, role, fd)


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    init_signals()
    with Kvm.open() as opened:
        yield opened


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create()
    yield ring
    ring.close()


@pytest.fixture
def wakers() -> Iterator[Wakers]:
    wakers = Wakers(os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK))
    yield wakers
    os.close(wakers.sinks)
    os.close(wakers.signals)


def machine_of(
    kvm: Kvm, ring: Ring, wakers: Wakers, image: Image, phases: list[str], **config: object
) -> tuple[Machine, threading.Event]:
    """A machine with options of MachineConfig, and what is set at its end; close it."""
    ended = threading.Event()
    defaults = {"memory": 16 * MIB, "cpus": 1, "boot": BootSource(firmware=image)}
    ring.start_boot(time.monotonic_ns(), time.monotonic_ns())
    given = MachineConfig(**{**defaults, **config})  # type: ignore[arg-type]
    return Machine(kvm, given, ring, wakers, ended=ended.set, phase=phases.append), ended


@pytest.fixture
def build(
    kvm: Kvm, ring: Ring, wakers: Wakers
) -> Iterator[Callable[..., tuple[Machine, threading.Event]]]:
    """Builds a machine from an image and options of MachineConfig; closes it after the test."""
    machines: list[Machine] = []
    images: list[Image] = []

    def build_machine(
        image: Image | bytes, phases: list[str] | None = None, **config: object
    ) -> tuple[Machine, threading.Event]:
        source = image if isinstance(image, Image) else image_of(rom(image))
        images.append(source)
        given = phases if phases is not None else []
        machine, ended = machine_of(kvm, ring, wakers, source, given, **config)
        machines.append(machine)
        return machine, ended

    yield build_machine
    for machine in machines:
        machine.close()
    for image in images:
        os.close(image.fd)


@pytest.fixture
def run(build: Callable[..., tuple[Machine, threading.Event]], ring: Ring) -> Callable[..., Run]:
    """Runs a guest to its end and drains its events as a sink would."""

    def run_guest(image: Image | bytes, **config: object) -> Run:
        phases: list[str] = []
        machine, ended = build(image, phases, **config)
        machine.start()
        events: list[Event] = []
        deadline = time.monotonic() + TIMEOUT
        while not ended.wait(0.001):
            drain(ring, events)
            machine.sink_has_read()
            assert time.monotonic() < deadline, f"the guest hangs after {len(events)} events"
        machine.close()
        drain(ring, events)
        assert machine.outcome is not None
        return Run(machine.outcome, events, ring, phases)

    return run_guest


def drain(ring: Ring, events: list[Event]) -> list[Event]:
    """Add all whole events, as both durable readers; returns the list."""
    while True:
        batch, lost = ring.copy(ring.position(Reader.JOURNAL))
        assert lost == 0
        if not batch:
            return events
        events += batch
        ring.move(Reader.LOG, batch[-1].ticket)
        ring.move(Reader.JOURNAL, batch[-1].ticket)
