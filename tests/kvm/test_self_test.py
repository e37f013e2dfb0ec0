"""What an exit costs on this host, and whether port 0x80 makes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chdebugd.control import EXIT_COST
from chdebugd.exit_cost import exit_cost_of_host
from chdebugd.vmm import self_test
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.self_test import OUT_0X81, measure_exit_cost, scratch_page

pytestmark = pytest.mark.kvm
A_SECOND = 1_000_000_000  # nanoseconds: no exit takes so long


def test_the_scratch_guest_tells_what_an_exit_costs(kvm: Kvm) -> None:
    cost = measure_exit_cost(kvm)

    assert cost.traps
    assert 0 < cost.nsec < A_SECOND


def test_a_host_slower_than_the_budget_is_measured_all_the_same(
    kvm: Kvm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "BUDGET_NSEC", 0)

    cost = measure_exit_cost(kvm)

    assert cost.traps
    assert 0 < cost.nsec < A_SECOND


def test_a_port_0x80_that_makes_no_exit_is_found_out(kvm: Kvm) -> None:
    """Writes to another port stand for those that KVM lets through: none comes from 0x80."""
    cost = measure_exit_cost(kvm, scratch_page(OUT_0X81))

    assert not cost.traps


def test_a_host_is_measured_once_a_boot(tmp_path: Path) -> None:
    first = exit_cost_of_host(str(tmp_path))

    assert first is not None
    assert exit_cost_of_host(str(tmp_path)) == first


@pytest.mark.parametrize(
    "kept",
    [
        json.dumps({"host_boot": "another", "nsec": 1, "traps": True}),
        json.dumps({"nsec": 1, "traps": True}),
        "[]",
        "{",
        "",
    ],
)
def test_a_cache_of_another_boot_or_a_broken_one_is_not_believed(kept: str, tmp_path: Path) -> None:
    (tmp_path / EXIT_COST).write_text(kept)

    cost = exit_cost_of_host(str(tmp_path))

    assert cost is not None
    assert cost.nsec > 1
    assert json.loads((tmp_path / EXIT_COST).read_text())["nsec"] == cost.nsec


def test_a_directory_that_takes_no_file_costs_only_the_cache(tmp_path: Path) -> None:
    assert exit_cost_of_host(str(tmp_path / "missing")) is not None
