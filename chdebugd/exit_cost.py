"""What one exit costs on this host: measured by the first VM process after the host's boot.

The daemon lends what it wrote to the others, so that they need not measure again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping

from chdebugd.control import EXIT_COST
from chdebugd.errors import ChdebugdError
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.self_test import ExitCost, measure_exit_cost

HOST_BOOT = "/proc/sys/kernel/random/boot_id"


def exit_cost_of_host(directory: str) -> ExitCost | None:
    """From the file in there, or measured now and put there; None where KVM does not let us."""
    boot, path = _host_boot(), f"{directory}/{EXIT_COST}"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        with open(path) as file:
            known = json.load(file)
        if known.pop("host_boot") == boot:
            return ExitCost(int(known["nsec"]), bool(known["traps"]))
    try:
        with Kvm.open() as kvm:
            cost = measure_exit_cost(kvm)
    except (OSError, ChdebugdError):
        return None
    _keep(path, {"host_boot": boot} | cost._asdict())
    return cost


def _host_boot() -> str:
    """Empty where a unit hides /proc/sys: its runtime directory lives no longer than the boot."""
    try:
        with open(HOST_BOOT) as file:
            return file.read().strip()
    except OSError:
        return ""


def _keep(path: str, known: Mapping[str, object]) -> None:
    """A runtime directory that is full costs the next process 5 ms, nothing else."""
    fresh = f"{path}.new"
    with contextlib.suppress(OSError):
        with open(fresh, "w") as file:
            json.dump(known, file)
        os.rename(fresh, path)
