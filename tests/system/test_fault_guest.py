"""Guests that do their worst: bounded in what they take, and nobody else waits."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from container.container import Container

from tests.guests import TRIPLE_FAULT
from tests.system.conftest import call_vm, get, guest, wait_state
from tests.system.faults import HERTZ, Writers, assert_answers, pid_of, unit_of

pytestmark = pytest.mark.kvm
FLOODS_FOR = 4  # seconds
MEMORY_MAX = 150_000  # KiB that a process of ours may hold, however its guest behaves
MARKS_MAX = 40_000  # entries a second: journald itself bounds what a guest can make it store
OTHERS_MAX = 1500  # entries a second that are no marks


def flood(port: int, text: bytes) -> bytes:
    """Write `text` to `port` for ever."""
    return b"\xba" + port.to_bytes(2, "little") + b"".join(  # mov $port, %dx
        bytes([0xB0, byte])  # 1: mov $byte, %al
        + b"\xee"  # out %al, %dx
        for byte in text
    ) + bytes([0xEB, (-3 * len(text) - 2) & 0xFF])  # jmp 1b  # fmt: skip


RESET = (
    b"\xb0\x01"  # mov $1, %al
    b"\xba\x00\x06"  # mov $0x600, %dx
    b"\xee"  # out %al, %dx
)
GUESTS = {
    "marks": (flood(0x80, b"\x40"), ()),
    "text": (flood(0x402, b"a\n"), (("firmware-debug", "s", "journal"),)),
    "console": (flood(0xE9, b"\n"), (("debug-console", "s", "journal"),)),
    "serial": (flood(0x3F8, b"a\n"), (("serial", "s", "journal"),)),
    "resets": (RESET, ()),
}


@pytest.fixture
def writers(container: Container) -> Iterator[Writers]:
    """In a container of their own: floods make the journal long, and all who read it slow."""
    with Writers(container) as writers:
        yield writers


def resident(container: Container, pid: int) -> int:
    """KiB of memory that a process holds, guest memory that was touched included."""
    status = container.get(f"/proc/{pid}/status").decode()
    return int(status.split("VmRSS:")[1].split()[0])


def stored(container: Container, name: str) -> int:
    """How many entries the journal has about a VM."""
    done = container.run(
        "sh", "-c", f"journalctl -q -t chdebugd -o cat --output-fields=PRIORITY VM={name} | wc -l"
    )
    return int(done.stdout)


@pytest.mark.parametrize("kind", GUESTS)
def test_a_flood_takes_no_more_than_its_share(writers: Writers, kind: str) -> None:
    container = writers.container
    code, options = GUESTS[kind]
    name = f"flood_{kind}"
    container.start_vm(name, guest(container, name, code), ("memory", "t", str(16 << 20)), *options)
    before, began = writers.counts(), time.monotonic()

    assert_answers(container)
    time.sleep(max(began + FLOODS_FOR - time.monotonic(), 0))

    after, took = writers.counts(), time.monotonic() - began
    assert get(container, name, "State") in ("running", "starting")
    assert resident(container, pid_of(container, unit_of(name))) < MEMORY_MAX
    assert resident(container, pid_of(container, "chdebugd.service")) < MEMORY_MAX
    assert stored(container, name) < (MARKS_MAX if kind == "marks" else OTHERS_MAX) * (took + 1)
    for other, count in after.items():
        assert count - before[other] > HERTZ * took / 4, f"{other} was held up"
    call_vm(container, name, "Kill")
    writers.close_account()


def test_a_guest_that_triple_faults_at_once_fails_alone(writers: Writers) -> None:
    container = writers.container
    container.start_vm("fault", guest(container, "fault", TRIPLE_FAULT))

    wait_state(container, "fault", "failed")
    assert get(container, "fault", "Result") == "triple-fault"
    writers.close_account()
