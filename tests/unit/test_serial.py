"""The serial port as Linux's 8250 driver meets it: its tests of the chip, and interrupts."""

from __future__ import annotations

import pytest

from chdebugd.vmm.devices.serial import INPUT_LIMIT, Serial

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
WANTS_RECEIVED, WANTS_SENT = 1, 2
NO_INTERRUPT, SENT, RECEIVED = 1, 2, 4


class Wire:
    """Keeps its level, and how often it rose."""

    def __init__(self) -> None:
        self.level = False
        self.edges = 0

    def __call__(self, level: bool, /) -> None:
        self.edges += level and not self.level
        self.level = level


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def sent() -> bytearray:
    return bytearray()


@pytest.fixture
def serial(wire: Wire, sent: bytearray) -> Serial:
    return Serial(wire, sent.extend)


def test_the_driver_finds_a_16550a(serial: Serial) -> None:
    serial.write(IER, 1, 0)
    assert serial.read(IER, 1) == 0
    serial.write(IER, 1, 0x0F)
    assert serial.read(IER, 1) == 0x0F
    serial.write(MCR, 1, 0x10 | 0x0A)
    assert serial.read(MSR, 1) & 0xF0 == 0x90
    serial.write(MCR, 1, 0)
    serial.write(FCR, 1, 1)
    assert serial.read(IIR, 1) & 0xC0 == 0xC0
    serial.write(SCR, 1, 0x5A)
    assert serial.read(SCR, 1) == 0x5A


def test_asking_for_the_sent_interrupt_gives_one_at_once_and_again(
    serial: Serial, wire: Wire
) -> None:
    for times in (1, 2):
        serial.write(IER, 1, WANTS_SENT)
        assert (wire.level, wire.edges) == (True, times)
        assert serial.read(IIR, 1) == SENT
        assert not wire.level
        assert serial.read(IIR, 1) == NO_INTERRUPT
        serial.write(IER, 1, 0)


def test_each_byte_sent_gives_an_edge(serial: Serial, wire: Wire, sent: bytearray) -> None:
    serial.write(IER, 1, WANTS_SENT)
    serial.read(IIR, 1)
    for byte in b"abc":
        serial.write(DATA, 1, byte)
        assert serial.read(IIR, 1) == SENT

    assert bytes(sent) == b"abc"
    assert wire.edges == 4


def test_input_holds_the_wire_until_it_is_read(serial: Serial, wire: Wire) -> None:
    serial.write(IER, 1, WANTS_RECEIVED)
    serial.receive(b"xy")

    assert wire.level
    assert serial.read(IIR, 1) == RECEIVED
    assert serial.read(LSR, 1) == 0x61
    assert (serial.read(DATA, 1), wire.level) == (ord("x"), True)
    assert (serial.read(DATA, 1), wire.level) == (ord("y"), False)
    assert serial.read(LSR, 1) == 0x60


def test_input_goes_before_what_was_sent(serial: Serial) -> None:
    serial.write(IER, 1, WANTS_SENT | WANTS_RECEIVED)
    serial.receive(b"x")

    assert serial.read(IIR, 1) == RECEIVED
    serial.read(DATA, 1)
    assert serial.read(IIR, 1) == SENT


def test_input_that_is_not_read_is_bounded(serial: Serial) -> None:
    assert serial.receive(bytes(INPUT_LIMIT + 5)) == INPUT_LIMIT
    assert serial.receive(b"x") == 0


def test_a_guest_cannot_fill_memory_by_loopback(serial: Serial) -> None:
    serial.write(MCR, 1, 0x10)
    for _ in range(INPUT_LIMIT + 10):
        serial.write(DATA, 1, 0)

    assert serial.receive(b"x") == 0
    for _ in range(INPUT_LIMIT):
        serial.read(DATA, 1)
    assert serial.read(LSR, 1) == 0x60
