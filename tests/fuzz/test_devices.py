"""A hostile guest at every port and address: device models take anything and fail on nothing."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

import pytest

from chdebugd.vmm import layout
from chdebugd.vmm.bus import Bus
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.virtio.block import Disk
from tests.fuzz.conftest import FACTOR
from tests.guests import FOREVER
from tests.kvm.conftest import MIB
from tests.virtio_driver import FEATURES_OK, RINGS, VirtioDriver

pytestmark = [pytest.mark.kvm, pytest.mark.fuzz]
Build = Callable[..., tuple[Machine, threading.Event]]

PORT_ACCESSES = 600_000
MEMORY_ACCESSES = 200_000
CONFIG_ACCESSES = 250_000
VIRTIO_ACCESSES = 150_000
DISK_SIZE = 1 << 20
SLOTS = (1, 2)  # the disk and the source of entropy
A_MACHINE = 50_000  # accesses to one machine, then a fresh one
VALUES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x8000_0000, 0xFFFF_FFFF, 0xAA55)


class Attack:
    """Random reads and writes; every value that comes back must fit its size."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, size: int) -> int:
        if self.random.random() < 0.3:
            return self.random.choice(VALUES) & (1 << 8 * size) - 1
        return self.random.getrandbits(8 * size)

    def access(self, bus: Bus, address: int, size: int) -> None:
        if self.random.random() < 0.5:
            bus.write(address, size, self.value(size))
        else:
            assert 0 <= bus.read(address, size) < 1 << 8 * size

    def near(self, bus: Bus, end: int) -> int:
        """Mostly in or beside a device's range, else anywhere below `end`."""
        ranges = bus._ranges
        if not ranges or self.random.random() < 0.1:
            return self.random.randrange(end)
        place = self.random.choice(ranges)
        most = 0x40 if self.random.random() < 0.5 else 0x4000
        return max(self.random.randrange(place.start - 3, min(place.end, place.start + most)), 0)


def build_all(build: Build) -> Machine:
    """A machine with every device there is, its guest not running."""
    text = dict.fromkeys(("serial", "debug_console", "firmware_debug"), lambda _: None)
    disk = os.memfd_create("disk")
    os.ftruncate(disk, DISK_SIZE)
    machine, _ = build(FOREVER, disks=(Disk(disk, "disk", "d"),), rng=True, **text)
    machine._resources.callback(os.close, disk)
    return machine


def in_turns(build: Build, accesses: int, turn: Callable[[Machine], None]) -> None:
    for _ in range(accesses * FACTOR // A_MACHINE):
        machine = build_all(build)
        for _ in range(A_MACHINE):
            turn(machine)
        machine.close()


def test_ports_take_anything(build: Build, seed: int) -> None:
    attack = Attack(seed)

    def one(machine: Machine) -> None:
        size = attack.random.choice((1, 2, 4))
        attack.access(machine.ports, attack.near(machine.ports, 1 << 16), size)

    in_turns(build, PORT_ACCESSES, one)


def test_memory_mapped_registers_take_anything(build: Build, seed: int) -> None:
    attack = Attack(seed + 1)

    def one(machine: Machine) -> None:
        size = attack.random.choice((1, 2, 4, 8))
        attack.access(machine.mmio, attack.near(machine.mmio, 1 << 46), size)

    in_turns(build, MEMORY_ACCESSES, one)


def test_configuration_space_takes_anything(build: Build, seed: int) -> None:
    """Functions of bus 0 mostly; BARs move about, and are written and read where they went."""
    attack = Attack(seed + 2)

    def one(machine: Machine) -> None:
        if attack.random.random() < 0.2:
            attack.access(machine.mmio, attack.near(machine.mmio, 1 << 32), 4)
            return
        device = attack.random.randrange(10) << 11 | attack.random.randrange(256)
        address = device if attack.random.random() < 0.95 else attack.random.getrandbits(31)
        machine.ports.write(layout.PCI_ADDRESS_PORT, 4, 1 << 31 | address)
        size = attack.random.choice((1, 2, 4))
        attack.access(machine.ports, layout.PCI_DATA_PORT + attack.random.randrange(4), size)

    in_turns(build, CONFIG_ACCESSES, one)


def start_queue(attack: Attack, machine: Machine) -> None:
    """As a driver does, up to a table full of anything, and tell the device."""
    chance = attack.random
    machine.pci._functions[slot := chance.choice(SLOTS)].config_write(4, 2, 6)
    driver = VirtioDriver(machine, slot)
    driver.reset()
    if not driver.negotiate(1 << 32 | chance.choice((0, 1 << 28, 1 << 29))) & FEATURES_OK:
        return
    driver.set_up_queue(0, chance.choice((1, 8, 256, 3, 0)))
    driver.set_common(0x14, 1, 15)
    for at in range(8):
        address = chance.choice((RINGS, RINGS + 0x100, 0, 16 * MIB - 8, 0xD000_0000, 1 << 40))
        length = chance.choice((0, 1, 16, 512, 4096, 0xFFFF_FFFF))
        driver.describe(0, at, address, length, chance.randrange(8), chance.randrange(9))
    if driver.size:
        driver.offer(chance.randrange(9))


def test_virtio_devices_take_anything(build: Build, seed: int) -> None:
    """Registers at random while engines serve random tables."""
    attack = Attack(seed + 3)

    def one(machine: Machine) -> None:
        if attack.random.random() < 0.004:
            start_queue(attack, machine)
        size = attack.random.choice((1, 2, 4, 8))
        attack.access(machine.mmio, attack.near(machine.mmio, 1 << 32), size)

    in_turns(build, VIRTIO_ACCESSES, one)
