"""How a running guest and the engine reach each other: notification, MSI-X, the INTx wire."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import pytest

from chdebugd.trace.ring import Ring
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from chdebugd.vmm.virtio.engine import Engine
from tests.guests import SHUTDOWN_32
from tests.images import pvh_elf
from tests.kvm.conftest import drain, image_of
from tests.virtio_driver import AVAIL, BUFFERS, F_VERSION_1, RINGS, USED, WRITE, VirtioDriver

pytestmark = pytest.mark.kvm
Build = Callable[..., tuple[Machine, threading.Event]]

AVAIL_INDEX = RINGS + AVAIL + 2
IDT, VECTOR, HANDLER = 0x5000, 0x41, 0x4000
GSI = 11  # of slot 1
ISR = 0x400  # offset in the BAR
ENABLE_LAPIC = b"\xc7\x05\xf0\x00\xe0\xfe\xff\x01\x00\x00"  # movl $0x1ff, 0xfee000f0
SLEEP_32 = (
    b"\xfb"  # sti
    b"\xf4"  # 1: hlt
    b"\xeb\xfd"  # jmp 1b
)


def load_idt(pointer: int) -> bytes:
    return b"\x0f\x01\x1d" + pointer.to_bytes(4, "little")  # lidt pointer


def write_word(address: int, value: int) -> bytes:
    return b"\x66\xc7\x05" + struct.pack("<IH", address, value)  # movw $value, address


def write_long(address: int, value: int) -> bytes:
    return b"\xc7\x05" + struct.pack("<II", address, value)  # movl $value, address


def mark_byte(address: int) -> bytes:
    return b"\xa0" + address.to_bytes(4, "little") + b"\xe6\x80"  # mov address, %al; out %al, $0x80


def run_to_the_interrupt(machine: Machine, ended: threading.Event, code: bytes) -> None:
    """The handler marks the interrupt status, and then how many bytes came."""
    gate = struct.pack("<HHHH", HANDLER & 0xFFFF, 8, 0x8E00, HANDLER >> 16)
    machine.memory.write(IDT + 8 * VECTOR, gate)
    machine.memory.write(IDT - 16, struct.pack("<HI", 8 * 256 - 1, IDT))
    machine.memory.write(HANDLER, code)
    machine.start()
    assert ended.wait(60), "the interrupt never came"
    assert machine.outcome is not None
    assert machine.outcome.result == Result.SHUTDOWN, machine.outcome


@pytest.fixture
def _no_kick_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def kick(_: Engine) -> None:
        raise AssertionError("the notification came to Python")

    monkeypatch.setattr(Engine, "kick", kick)


def build_for(build: Build, prelude: bytes, notify: int) -> tuple[Machine, threading.Event]:
    start = (
        b"\xbc\x00\x90\x00\x00"  # mov $0x9000, %esp
        b"\xb0\xff"  # mov $0xff, %al
        b"\xe6\x21"  # out %al, $0x21         no interrupts by the PIC
        b"\xe6\xa1"  # out %al, $0xa1
    )
    code = start + ENABLE_LAPIC + load_idt(IDT - 16) + prelude
    code += write_word(AVAIL_INDEX, 1) + write_word(notify, 0) + SLEEP_32
    image = image_of(pvh_elf(code), "kernel")
    return build(image, boot=BootSource(kernel=image), rng=True)


def offer_room(machine: Machine) -> VirtioDriver:
    driver = VirtioDriver(machine, 1)
    driver.start()
    offer(driver)
    return driver


def offer(driver: VirtioDriver) -> None:
    """Room for 64 bytes, of which the device is yet to be told."""
    driver.describe(0, 0, BUFFERS, 64, WRITE, 0)


NOTIFY = 0xC000_0000 + 0x1000  # of the first device, as the machine places its BAR


@pytest.mark.usefixtures("_no_kick_by_python")
def test_an_msi_tells_what_a_notification_set_going(build: Build, ring: Ring) -> None:
    machine, ended = build_for(build, b"", NOTIFY)
    driver = VirtioDriver(machine, 1)
    driver.start()
    driver.set_common(0x1A, 2, 1)
    driver.write(0x2010, 4, 0xFEE0_0000)
    driver.write(0x2014, 4, 0)
    driver.write(0x2018, 4, VECTOR)
    driver.write(0x201C, 4, 0)
    driver.config_write(driver.msix_at + 2, 2, 0x8000)
    offer(driver)
    used_length = RINGS + USED + 8

    run_to_the_interrupt(machine, ended, mark_byte(used_length) + SHUTDOWN_32)

    assert [event.code for event in drain(ring, [])] == [64]
    assert machine.memory.read(BUFFERS, 64) != bytes(64)


@pytest.mark.usefixtures("_no_kick_by_python")
def test_without_msi_x_the_wire_is_held_until_the_status_is_read(build: Build, ring: Ring) -> None:
    redirect = (
        write_long(0xFEC0_0000, 0x10 + 2 * GSI)
        + write_long(0xFEC0_0010, VECTOR | 1 << 15)  # level-triggered, to APIC 0
    )
    machine, ended = build_for(build, redirect, NOTIFY)
    offer_room(machine)

    status = 0xC000_0000 + ISR
    run_to_the_interrupt(machine, ended, mark_byte(status) + mark_byte(status) + SHUTDOWN_32)

    assert [event.code for event in drain(ring, [])] == [1, 0]


def test_a_masked_vector_is_pending_until_its_mask_goes(build: Build) -> None:
    machine, _ = build_for(build, b"", NOTIFY)
    driver = VirtioDriver(machine, 1)
    driver.start()
    driver.set_common(0x1A, 2, 1)
    driver.config_write(driver.msix_at + 2, 2, 0x8000)
    offer(driver)
    driver.offer(0)
    driver.collect()
    driver.reset()  # waits for the engine, which tells before it stands still

    assert driver.read(0x3000, 4) == 2
    driver.write(0x201C, 4, 0)
    assert driver.read(0x3000, 4) == 0


def test_a_vector_that_is_not_there_reads_back_as_none(build: Build) -> None:
    machine, _ = build_for(build, b"", NOTIFY)
    driver = VirtioDriver(machine, 1)
    driver.set_common(0x1A, 2, 2)
    assert driver.common(0x1A, 2) == 0xFFFF
    driver.set_common(0x10, 2, 0)
    assert driver.common(0x10, 2) == 0


def test_a_notification_by_configuration_space_is_served(build: Build) -> None:
    machine, _ = build_for(build, b"", NOTIFY)
    driver = offer_room(machine)
    driver.offer(0, notify=False)
    access = 0x84
    driver.config_write(access + 8, 4, 0x1000)
    driver.config_write(access + 12, 4, 2)

    driver.config_write(access + 16, 2, 0)

    assert driver.collect() == (0, 64)


def test_entropy_comes_in_bounded_amounts_and_differs(build: Build) -> None:
    machine, _ = build_for(build, b"", NOTIFY)
    driver = VirtioDriver(machine, 1)
    driver.start(F_VERSION_1)

    first, second = (driver.request([], [300])[1][0] for _ in "ab")
    assert first != second
    driver.describe(0, 0, 0x400000, 8 << 20, WRITE, 0)
    driver.offer(0)
    assert driver.collect() == (0, 65536)
