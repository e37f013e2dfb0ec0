"""How true the stamps are: each delta between two marks beside the guest's own TSC."""

from __future__ import annotations

import asyncio

from chdebugd.vmm.kvm import Kvm, init_signals
from tests.bench.report import Figure, compare, measure, percentile
from tests.kvm.clock import stamp_marks


async def clock(repeat: int) -> list[Figure]:
    """The error of a delta, and that of its 99th percentile beside the cost of an exit."""
    init_signals()
    with Kvm.open() as kvm:
        runs = [await asyncio.to_thread(stamp_marks, kvm) for _ in range(repeat)]
    exits = [run.exit_cost_nsec for run in runs]
    errors = [run.errors() for run in runs]
    nineties = [percentile(each, 99) for each in errors]
    what, peer = "error of a delta between marks", "one exit"
    return [
        measure("clock", f"{what}, median", [percentile(each, 50) for each in errors], "ns"),
        compare("clock", f"{what}, 99th percentile", nineties, exits, "ns", peer, at_most=1),
        measure("clock", f"{what}, worst", [max(each) for each in errors], "ns"),
    ]
