"""The control groups of a real host: out of memory, out of processes, and who notices nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from chdebugd.trace.journal import MessageId
from tests.guests import hungry, metronome, rom
from tests.lab.guest import IMAGES, Guest
from tests.lab.outer import LabError, OuterMachine

MIB = 1 << 20
HERTZ = 20
TIMEOUT = 300  # seconds for anything that must happen
DAEMON = "chdebugd.service"
OOM = "The kernel's OOM killer ended the VM process"


@pytest.fixture(scope="module")
def beside(outer: OuterMachine, module_guest: Callable[[str], Guest]) -> Iterator[Guest]:
    """A guest with a clock, which marks all the while; at the end not one of its marks lacks."""
    outer.put(f"{IMAGES}/beside.rom", rom(metronome(HERTZ)))
    vm = module_guest("beside")
    vm.start(firmware=f"{IMAGES}/beside.rom", memory=16 * MIB)
    yield vm
    vm.call("Kill")
    vm.wait_state("stopped")
    assert_account(vm)


def assert_account(vm: Guest) -> None:
    """The journal has what the guest counted: once, in order, and all of it."""
    count = int(vm.get("EventCount"))
    marks = [(mark.seq, mark.code) for mark in vm.marks()]
    assert count > 0
    assert marks == [(seq, (seq - 1) & 0xFF) for seq in range(1, count + 1)]


def wait_for_marks(vm: Guest) -> None:
    """Until it has made some more."""
    before, deadline = int(vm.get("EventCount")), time.monotonic() + TIMEOUT
    while int(vm.get("EventCount")) < before + HERTZ // 4:
        assert time.monotonic() < deadline


@contextlib.contextmanager
def drop_in(outer: OuterMachine, unit: str, *lines: str) -> Iterator[None]:
    """Settings for what starts of a unit meanwhile."""
    directory = f"/run/systemd/system/{unit}.d"
    outer.run(f"mkdir -p {directory}")
    outer.put(f"{directory}/limit.conf", "\n".join(["[Service]", *lines, ""]).encode())
    outer.run("systemctl daemon-reload")
    try:
        yield
    finally:
        outer.run(f"rm -r {directory} && systemctl daemon-reload")


def show(outer: OuterMachine, unit: str, name: str) -> str:
    return outer.run(f"systemctl show --value --property={name} {unit}").strip()


def test_a_vm_that_wants_more_memory_than_its_unit_may_have_is_told_as_such(
    outer: OuterMachine, beside: Guest, guest: Callable[[str], Guest]
) -> None:
    unit, vm = "chdebugd-vm@hungry.service", guest("hungry")
    process = show(outer, "chdebugd-vm@beside.service", "MainPID")
    outer.put(f"{IMAGES}/hungry.rom", rom(hungry(exits=1)))
    with drop_in(outer, unit, "MemoryMax=40M", "MemorySwapMax=0"):
        vm.start(firmware=f"{IMAGES}/hungry.rom", memory=1024 * MIB)
        vm.wait_text(OOM, TIMEOUT)

    assert vm.get("State") == "failed"
    assert vm.get("Result") == "oom-kill"
    assert show(outer, unit, "Result") == "oom-kill"
    told = vm.entries(MessageId.VM_FAILED)
    assert [entry["RESULT"] for entry in told] == ["oom-kill"]
    assert_account(vm)
    wait_for_marks(beside)
    assert beside.get("State") == "running"
    assert show(outer, "chdebugd-vm@beside.service", "MainPID") == process
    outer.run(f"systemctl reset-failed {unit}")


def test_a_unit_without_room_for_a_thread_is_named(
    outer: OuterMachine, beside: Guest, guest: Callable[[str], Guest]
) -> None:
    """It has room for itself, for one vCPU and for the thread that KVM makes for each VM."""
    with (
        drop_in(outer, "chdebugd-vm@crowd.service", "TasksMax=3"),
        pytest.raises(LabError, match="The host has no thread left for vCPU 1"),
    ):
        guest("crowd").start(firmware=f"{IMAGES}/beside.rom", memory=16 * MIB, cpus=2)

    wait_for_marks(beside)


def test_a_daemon_that_the_oom_killer_ends_harms_no_guest(
    outer: OuterMachine, beside: Guest
) -> None:
    """systemd starts it anew, and it dies again, until it may have memory."""
    process = show(outer, "chdebugd-vm@beside.service", "MainPID")
    follow = f"journalctl --follow --lines=all --output=cat --unit={DAEMON}"
    outer.run(f"systemctl set-property --runtime {DAEMON} MemoryMax=4M MemorySwapMax=0")
    died = outer.follow(follow, "Failed with result 'oom-kill'", TIMEOUT)
    outer.run(f"systemctl set-property --runtime {DAEMON} MemoryMax=infinity")
    outer.run("until busctl status org.chdebugd1 > /dev/null 2>&1; do sleep 0.2; done", TIMEOUT)

    assert died.code == 0
    wait_for_marks(beside)
    assert beside.get("State") == "running"
    assert show(outer, "chdebugd-vm@beside.service", "MainPID") == process
