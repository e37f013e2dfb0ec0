"""The host's stamps of marks are true: the guest's own clock says so."""

from __future__ import annotations

import pytest

from chdebugd.vmm.kvm import Kvm
from tests.kvm.clock import clock_errors

pytestmark = pytest.mark.kvm
RUNS = 50  # other work on the host can only add errors, so one run without it proves the clock


def test_deltas_between_marks_are_the_guests_own_within_one_exit(kvm: Kvm) -> None:
    seen = []
    for _ in range(RUNS):
        errors = clock_errors(kvm)
        seen.append((errors.percentile(99), errors.exit_cost_nsec))
        if errors.percentile(99) <= errors.exit_cost_nsec:
            break

    assert any(error <= exit_cost for error, exit_cost in seen), seen
