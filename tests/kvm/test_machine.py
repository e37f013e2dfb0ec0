"""The machine around port 0x80: its ports, its memory, and every way a run can end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chdebugd.errors import LimitExceededError
from chdebugd.trace.ring import Ring
from chdebugd.vmm.boot.demo import open_demo_guest
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from tests.guests import (
    CLI_HLT,
    FOREVER,
    RUN_FROM_NOWHERE,
    SHUTDOWN,
    SHUTDOWN_32,
    SLEEP,
    TRIPLE_FAULT,
    mark,
    protected,
)
from tests.images import pvh_elf
from tests.kvm.conftest import Run, image_of

pytestmark = pytest.mark.kvm
RunGuest = Callable[..., Run]
Build = Callable[..., tuple[Machine, threading.Event]]

MARK_AL = b"\xe6\x80"  # out %al, $0x80


def read_port(port: int) -> bytes:
    return (
        b"\xba"
        + port.to_bytes(2, "little")  # mov $port, %dx
        + b"\xec"  # in %dx, %al
    ) + MARK_AL


def write_port(port: int, value: int) -> bytes:
    return (
        b"\xba"
        + port.to_bytes(2, "little")  # mov $port, %dx
        + bytes([0xB0, value])  # mov $value, %al
        + b"\xee"  # out %al, %dx
    )


def test_the_demo_guest_walks_all_components(run: RunGuest) -> None:
    result = run(open_demo_guest())

    assert result.codes == [0x00, 0x01, 0x20, 0x21, 0x40, 0x41, 0x60, 0x61, 0x80, 0xFF]
    assert result.outcome.result == Result.SHUTDOWN
    assert result.phases == ["kvm-created", "memory-mapped", "image-loaded"]


@pytest.mark.parametrize("port", [0x0300, 0x3F0, 0x1234, 0xFFFF])
def test_an_unclaimed_port_reads_all_ones(run: RunGuest, port: int) -> None:
    assert run(read_port(port) + SHUTDOWN).codes == [0xFF]


def test_unclaimed_memory_reads_all_ones(run: RunGuest) -> None:
    guest = (
        b"\xa0\x00\x00\x00\xd0"  # mov 0xd0000000, %al
    ) + MARK_AL

    assert run(protected(guest + SHUTDOWN_32)).codes == [0xFF]


def test_the_uart_is_ready_to_send(run: RunGuest) -> None:
    assert run(read_port(0x3FD) + SHUTDOWN).codes == [0x60]


def test_text_ports_take_text_and_show_themselves(run: RunGuest) -> None:
    out = {"serial": bytearray(), "debug_console": bytearray(), "firmware_debug": bytearray()}
    guest = (
        write_port(0x3F8, ord("s"))
        + write_port(0xE9, ord("d"))
        + write_port(0x402, ord("f"))
        + read_port(0x402)
    )

    result = run(guest + SHUTDOWN, **{name: buffer.extend for name, buffer in out.items()})

    assert result.codes == [0xE9]
    assert [bytes(buffer) for buffer in out.values()] == [b"s", b"d", b"f"]


def test_text_ports_that_are_off_are_not_there(run: RunGuest) -> None:
    assert run(read_port(0x402) + read_port(0xE9) + SHUTDOWN).codes == [0xFF, 0xFF]


def test_cmos_tells_the_memory_above_16_mib(run: RunGuest) -> None:
    guest = write_port(0x70, 0x34) + read_port(0x71) + write_port(0x70, 0x35) + read_port(0x71)

    result = run(guest + SHUTDOWN, memory=64 << 20)

    assert int.from_bytes(bytes(result.codes), "little") == (48 << 20) // (64 << 10)


def test_an_empty_pci_slot_reads_all_ones_and_slot_0_is_a_host_bridge(run: RunGuest) -> None:
    def config_word(slot: int) -> bytes:
        return (
            (
                b"\x66\xb8"
                + (0x80000000 | slot << 11).to_bytes(4, "little")  # mov $address, %eax
                + b"\xba\xf8\x0c"  # mov $0xcf8, %dx
                b"\x66\xef"  # out %eax, %dx
                b"\xba\xfc\x0c"  # mov $0xcfc, %dx
                b"\xed"  # in %dx, %ax
            )
            + MARK_AL
        )

    assert run(config_word(0) + config_word(31) + SHUTDOWN).codes == [0x86, 0xFF]


@pytest.mark.parametrize(
    ("guest", "result"),
    [
        (mark(0x42) + SHUTDOWN, Result.SHUTDOWN),
        (mark(0x42) + write_port(0x600, 1) + CLI_HLT, Result.RESET),
        (mark(0x42) + write_port(0x64, 0xFE) + CLI_HLT, Result.RESET),
        (mark(0x42) + write_port(0x92, 0x01) + CLI_HLT, Result.RESET),
        (mark(0x42) + write_port(0xCF9, 0x06) + CLI_HLT, Result.RESET),
        (TRIPLE_FAULT, Result.TRIPLE_FAULT),
    ],
    ids=["acpi", "acpi-reset", "i8042", "port92", "cf9", "triple-fault"],
)
def test_how_a_run_ends(run: RunGuest, guest: bytes, result: Result) -> None:
    ended = run(guest)

    assert ended.outcome.result == result
    assert ended.codes == [0x42]


def test_a_fetch_from_nowhere_ends_with_what_kvm_told(run: RunGuest) -> None:
    outcome = run(RUN_FROM_NOWHERE).outcome

    assert outcome.result == Result.INTERNAL_ERROR
    assert outcome.fields["SUBERROR"] == "1"
    assert outcome.fields["GUEST_RIP"] == "0xd0000000"
    assert "0xd0000000" in outcome.sentence


def wait_asleep(machine: Machine, ended: threading.Event) -> None:
    """Until the vCPU threads take no CPU time: the guest halts."""
    seen = -1
    while seen != machine.cpu_nsec or not seen:
        seen = machine.cpu_nsec
        ended.wait(0.02)


def test_halt_with_interrupts_off_is_found(build: Build) -> None:
    machine, ended = build(CLI_HLT)
    machine.start()
    wait_asleep(machine, ended)

    assert not machine.end_if_dead_halted()

    assert machine.outcome is not None
    assert machine.outcome.result == Result.HALTED


def test_halt_with_interrupts_on_is_no_end(build: Build, ring: Ring) -> None:
    machine, ended = build(mark(1) + SLEEP)
    machine.start()
    wait_asleep(machine, ended)

    assert machine.end_if_dead_halted()

    assert ring.head == 1
    assert machine.outcome is None


LAPIC_TIMER = protected(
    b"\xc7\x05\xf0\x00\xe0\xfe\xff\x01\x00\x00"  # movl $0x1ff, 0xfee000f0  (on)
    b"\xc7\x05\xe0\x03\xe0\xfe\x0a\x00\x00\x00"  # movl $0xa, 0xfee003e0    (a tick each 128 ns)
    b"\xc7\x05\x20\x03\xe0\xfe\x20\x00\x00\x00"  # movl $0x20, 0xfee00320   (once, vector 0x20)
    b"\xc7\x05\x80\x03\xe0\xfe\xff\xff\xff\x7f" + mark(1) + SLEEP  # movl $0x7fffffff, 0xfee00380
)


PIT_TIMER = (
    b"\xb0\xff\xe6\x21"  # mov $0xff, %al; out %al, $0x21     (no IRQ comes through)
    b"\xb0\x34\xe6\x43"  # mov $0x34, %al; out %al, $0x43     (rate generator)
    b"\xb0\x00\xe6\x40\xe6\x40" + mark(1) + SLEEP  # mov $0, %al; out %al, $0x40; out %al, $0x40
)


@pytest.mark.parametrize("guest", [PIT_TIMER, LAPIC_TIMER], ids=["pit", "lapic"])
def test_a_guest_that_set_a_timer_may_halt_any_time(build: Build, ring: Ring, guest: bytes) -> None:
    machine, ended = build(guest)
    machine.start()
    while ring.head == 0:
        ended.wait(0.02)
    wait_asleep(machine, ended)

    assert not machine.end_if_dead_halted()

    assert machine.outcome is None


def test_pause_stops_the_guest_and_resume_goes_on(build: Build, ring: Ring) -> None:
    ring.set_drop_when_full(True)
    forever = (
        b"\xb0\x11"  # mov $0x11, %al
        b"\xe6\x80"  # 1: out %al, $0x80
        b"\xeb\xfc"  # jmp 1b
    )
    machine, _ = build(forever)
    machine.start()
    while ring.head < 100:
        pass

    machine.pause()
    stopped_at = ring.head + ring.dropped
    for _ in range(1000):
        assert ring.head + ring.dropped == stopped_at
    machine.resume()

    while ring.head + ring.dropped < stopped_at + 100:
        pass


def test_a_guest_that_never_exits_can_be_closed(build: Build) -> None:
    machine, ended = build(FOREVER)
    machine.start()

    machine.close()

    assert ended.is_set()
    assert not machine.vcpus[0].thread.is_alive()


def test_sixteen_vcpus_wait_for_the_first(run: RunGuest) -> None:
    assert run(mark(0x16) + SHUTDOWN, cpus=16).codes == [0x16]


@pytest.mark.parametrize("gib", [1, 4, 6])
def test_memory_reaches_beyond_the_hole(run: RunGuest, build: Build, gib: int) -> None:
    machine, _ = build(SHUTDOWN, memory=gib << 30)

    top = gib << 30 if gib <= 3 else (gib << 30) + (1 << 30)
    machine.memory.write(top - 4, b"last")

    assert machine.memory.read(top - 4, 4) == b"last"


def test_an_elf_with_a_pvh_note_is_entered_in_protected_mode(run: RunGuest) -> None:
    code = (
        b"\x8b\x03"  # mov (%ebx), %eax       start_info's magic
        b"\xe6\x80"  # out %al, $0x80
        b"\x66\xba\x00\x06"  # mov $0x600, %dx
        b"\xb0\x34"  # mov $0x34, %al
        b"\xee"  # out %al, %dx
    )
    image: Image = image_of(pvh_elf(code), "kernel")

    result = run(image, boot=BootSource(kernel=image))

    assert result.codes == [0x78]


def test_a_pvh_guest_finds_the_acpi_tables(run: RunGuest) -> None:
    code = (
        b"\x8b\x43\x20"  # mov 32(%ebx), %eax     start_info's rsdp_paddr
        b"\x8a\x00"  # mov (%eax), %al
        b"\xe6\x80"  # out %al, $0x80
    )
    image = image_of(pvh_elf(code + SHUTDOWN_32), "kernel")

    assert run(image, boot=BootSource(kernel=image)).codes == [ord("R")]


def test_threads_are_named_after_what_they_serve(build: Build) -> None:
    machine, _ = build(FOREVER, cpus=2, rng=True)
    machine.start()

    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()]
    assert {"vcpu0", "vcpu1", "rng"} <= set(names)


def test_a_thread_that_has_gone_home_can_be_kicked(build: Build) -> None:
    machine, ended = build(SHUTDOWN)
    machine.start()
    assert ended.wait(60)
    vcpu = machine.vcpus[0]
    vcpu.thread.join()

    vcpu.fd.kick()


def test_a_pause_takes_no_time_of_the_guests_clock(build: Build, ring: Ring) -> None:
    machine, _ = build(mark(1) + FOREVER)
    machine.start()
    while not ring.head:
        pass
    machine.pause()
    paused_at = machine.vm.clock().clock
    deadline = time.monotonic_ns() + 300_000_000
    while time.monotonic_ns() < deadline:
        pass

    before = time.monotonic_ns()
    machine.resume()
    passed = machine.vm.clock().clock - paused_at
    assert 0 <= passed <= time.monotonic_ns() - before + 100_000_000


def test_a_machine_without_threads_for_its_vcpus_is_refused_by_name(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that has no thread left cannot be had on demand: Python's refusal stands in."""
    machine, ended = build(FOREVER, cpus=2)
    machine.vcpus[0].start()

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(LimitExceededError, match="no thread left for vCPU 1"):
        machine.vcpus[1].start()
    machine.close()

    assert ended.is_set()
