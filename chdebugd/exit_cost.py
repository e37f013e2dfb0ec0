"""What one exit costs on this host: measured by the first VM process after the host's boot.

The others read what it wrote, so that a start does not wait for the measurement again.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from chdebugd.errors import ChdebugdError
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.self_test import ExitCost, measure_exit_cost

CACHE = "exit-cost.json"  # in the runtime directory
HOST_BOOT = Path("/proc/sys/kernel/random/boot_id")


def exit_cost_of_host(runtime_dir: Path) -> ExitCost | None:
    """From the cache, or measured now; None where KVM does not let us, which a start will tell."""
    boot, path = _host_boot(), runtime_dir / CACHE
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(path.read_text())
        if known.pop("host_boot") == boot:
            return ExitCost(int(known["nsec"]), bool(known["traps"]))
    try:
        with Kvm.open() as kvm:
            cost = measure_exit_cost(kvm)
    except (OSError, ChdebugdError):
        return None
    _keep(path, {"host_boot": boot} | asdict(cost))
    return cost


def _host_boot() -> str:
    """Empty where a unit hides /proc/sys: its runtime directory lives no longer than the boot."""
    try:
        return HOST_BOOT.read_text().strip()
    except OSError:
        return ""


def _keep(path: Path, known: dict[str, object]) -> None:
    """A runtime directory that is full costs the next process 5 ms, nothing else."""
    fresh = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        fresh.write_text(json.dumps(known))
        fresh.rename(path)
