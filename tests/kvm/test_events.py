"""What counts as an event: every rule of DESIGN.md with a guest of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from chdebugd.trace.event import Event
from chdebugd.trace.ring import CAPACITY, Ring
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from tests.guests import SHUTDOWN, burst, mark
from tests.kvm.conftest import TIMEOUT, Run, drain

pytestmark = pytest.mark.kvm
RunGuest = Callable[..., Run]
Build = Callable[..., tuple[Machine, threading.Event]]

OUT_AL = b"\xe6\x80"  # out %al, $0x80


def test_edges_of_all_five_ranges(run: RunGuest) -> None:
    edges = (0x00, 0x1F, 0x20, 0x3F, 0x40, 0x5F, 0x60, 0x7F, 0x80, 0xFF)

    result = run(mark(*edges) + SHUTDOWN)

    names = ("Firmware", "Bootloader", "Kernel", "Userspace", "Custom")
    assert result.codes == list(edges)
    assert [e.component for e in result.events] == [name for name in names for _ in "ab"]


def test_all_256_codes_in_order(run: RunGuest) -> None:
    guest = (
        b"\xb0\x00"  # mov $0, %al
        + OUT_AL  # 1: out %al, $0x80
        + b"\xfe\xc0"  # inc %al
        b"\x75\xfa"  # jnz 1b
    )

    result = run(guest + SHUTDOWN)

    assert result.codes == list(range(256))
    assert [event.seq for event in result.events] == list(range(1, 257))
    elapsed = [event.elapsed_nsec for event in result.events]
    assert elapsed == sorted(elapsed)
    assert {(event.vcpu, event.boot) for event in result.events} == {(0, 1)}


def test_a_word_at_0x80_is_one_event_of_its_low_byte(run: RunGuest) -> None:
    guest = (
        b"\xb8\x34\x12"  # mov $0x1234, %ax
        b"\xe7\x80"  # out %ax, $0x80
    )
    assert run(guest + SHUTDOWN).codes == [0x34]


def test_a_double_word_at_0x80_is_one_event_of_its_low_byte(run: RunGuest) -> None:
    guest = (
        b"\x66\xb8\x78\x56\x34\x12"  # mov $0x12345678, %eax
        b"\x66\xe7\x80"  # out %eax, $0x80
    )
    assert run(guest + SHUTDOWN).codes == [0x78]


def test_a_word_at_0x7f_is_one_event_of_its_high_byte(run: RunGuest) -> None:
    guest = (
        b"\xb8\x34\x12"  # mov $0x1234, %ax
        b"\xe7\x7f"  # out %ax, $0x7f
    )
    assert run(guest + SHUTDOWN).codes == [0x12]


@pytest.mark.parametrize(("port", "code"), [(0x7D, 0x12), (0x7E, 0x34), (0x7F, 0x56)])
def test_a_double_word_below_0x80_is_one_event_of_the_byte_that_lands(
    run: RunGuest, port: int, code: int
) -> None:
    guest = (
        b"\x66\xb8\x78\x56\x34\x12"  # mov $0x12345678, %eax
        b"\x66\xe7" + bytes([port])  # out %eax, $port
    )
    assert run(guest + SHUTDOWN).codes == [code]


@pytest.mark.parametrize("port", [0x7C, 0x81])
def test_a_double_word_beside_0x80_is_no_event(run: RunGuest, port: int) -> None:
    guest = (
        b"\x66\xb8\x78\x56\x34\x12"  # mov $0x12345678, %eax
        b"\x66\xe7" + bytes([port])  # out %eax, $port
    )
    assert run(guest + SHUTDOWN).codes == []


def test_rep_outsb_is_one_event_a_byte(run: RunGuest) -> None:
    guest = (
        b"\xc7\x06\x00\x20\x11\x22"  # movw $0x2211, 0x2000
        b"\xc7\x06\x02\x20\x33\x44"  # movw $0x4433, 0x2002
        b"\xbe\x00\x20"  # mov $0x2000, %si
        b"\xb9\x04\x00"  # mov $4, %cx
        b"\xba\x80\x00"  # mov $0x80, %dx
        b"\xf3\x6e"  # rep outsb
    )
    assert run(guest + SHUTDOWN).codes == [0x11, 0x22, 0x33, 0x44]


def test_rep_outsw_is_one_event_a_word(run: RunGuest) -> None:
    guest = (
        b"\xc7\x06\x00\x20\x11\x22"  # movw $0x2211, 0x2000
        b"\xc7\x06\x02\x20\x33\x44"  # movw $0x4433, 0x2002
        b"\xbe\x00\x20"  # mov $0x2000, %si
        b"\xb9\x02\x00"  # mov $2, %cx
        b"\xba\x80\x00"  # mov $0x80, %dx
        b"\xf3\x6f"  # rep outsw
    )
    assert run(guest + SHUTDOWN).codes == [0x11, 0x33]


def test_a_read_gives_the_last_code_and_is_no_event(run: RunGuest) -> None:
    guest = (
        mark(0x5A) + b"\xb0\x00"  # mov $0, %al
        b"\xe4\x80"  # in $0x80, %al
        b"\xfe\xc0"  # inc %al
         + OUT_AL
    )
    assert run(guest + SHUTDOWN).codes == [0x5A, 0x5B]


def test_rep_insb_reads_the_last_code_each_time(run: RunGuest) -> None:
    guest = (
        mark(0x77) + b"\xbf\x00\x20"  # mov $0x2000, %di
        b"\xb9\x03\x00"  # mov $3, %cx
        b"\xba\x80\x00"  # mov $0x80, %dx
        b"\xf3\x6c"  # rep insb
        b"\xa0\x02\x20"  # mov 0x2002, %al
         + OUT_AL
    )
    assert run(guest + SHUTDOWN).codes == [0x77, 0x77]


def test_a_hundred_thousand_writes_in_a_row_all_arrive(run: RunGuest) -> None:
    result = run(burst(100_000) + SHUTDOWN)

    assert result.outcome.result == Result.SHUTDOWN
    assert [event.seq for event in result.events] == list(range(1, 100_001))
    assert result.ring.dropped == 0


def test_a_full_ring_that_drops_counts_every_byte(build: Build, ring: Ring) -> None:
    """Nobody reads while the guest writes, so all beyond the capacity is dropped."""
    ring.set_drop_when_full(True)
    machine, ended = build(burst(CAPACITY + 1000) + SHUTDOWN)
    machine.start()

    assert ended.wait(60)

    assert (ring.head, ring.dropped) == (CAPACITY, 1000)


def test_a_full_ring_makes_the_guest_wait_and_counts_the_time(build: Build, ring: Ring) -> None:
    machine, ended = build(burst(CAPACITY + 1000) + SHUTDOWN)
    machine.start()
    while not ring.is_full:
        pass

    events: list[Event] = []
    while not ended.is_set():
        drain(ring, events)
        machine.sink_has_read()
    drain(ring, events)

    assert [event.seq for event in events] == list(range(1, CAPACITY + 1001))
    assert ring.dropped == 0
    assert ring.stalled_nsec > 0


def test_a_guest_that_is_ended_while_it_waits_loses_no_account(build: Build, ring: Ring) -> None:
    machine, ended = build(burst(CAPACITY + 10) + SHUTDOWN)
    machine.start()
    deadline = time.monotonic() + TIMEOUT
    while not ring.is_full:
        assert time.monotonic() < deadline
        time.sleep(0.001)

    machine.close()

    assert ended.is_set()
    events: list[Event] = []
    drain(ring, events)
    assert len(events) == CAPACITY
    assert ring.dropped in (0, 1)  # 0: ended between the last event and the next exit
    assert bool(ring.stalled_nsec) == bool(ring.dropped)
