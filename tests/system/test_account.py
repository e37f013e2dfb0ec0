"""Written = journal entries = log lines = signals, with the real journald and bus."""

from __future__ import annotations

import pytest
from container.container import Container
from container.signals import Signals

from tests.guests import SHUTDOWN, burst
from tests.system.conftest import get, guest, wait_for, wait_state

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_the_account_closes(container: Container, count: int) -> None:
    """100,000 marks: ten times what journald takes from a unit by default, and beyond the ring."""
    vm = f"burst{count}"
    with Signals(container) as signals:
        code = burst(count) + SHUTDOWN
        container.start_vm(vm, guest(container, vm, code), ("log-file", "s", f"{vm}.log"))
        wait_state(container, vm, "stopped")
        skipped = int(get(container, vm, "SkippedSignals"))
        wait_for(lambda: len(signals.events(vm)) + skipped >= count)

    written = int(get(container, vm, "EventCount"))
    in_journal = [int(mark["SEQ"]) for mark in container.marks(vm)]
    log = container.get(f"/var/log/chdebugd/{vm}.log")
    assert written == count
    assert in_journal == list(range(1, count + 1))
    assert log.count(b"Debug I/O port: Kernel code 0x40") == log.count(b"\n") == count
    assert len(signals.events(vm)) + skipped == count
    assert get(container, vm, "DroppedEvents") == "0"
