"""What a daemon needs to know of VMs that another daemon made.

Of a running VM its process keeps it and gives it back; of an ended one a small file in the runtime
directory does. A file that cannot be written costs the record, never a guest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chdebugd.control import Status
from chdebugd.errors import ChdebugdError
from chdebugd.limits import Limits
from chdebugd.options import VmOptions, given_from_json, parse_options
from chdebugd.vm import VM

log = logging.getLogger(__name__)


class VmRecords:
    """One JSON file an ended VM, RUNTIME_DIR/vm/NAME.json."""

    def __init__(self, runtime_dir: Path) -> None:
        self._dir = runtime_dir / "vm"

    def keepsake(self, vm: VM) -> dict[str, Any]:
        """What to give to the VM process."""
        return {
            "options": vm.options.to_json(),
            "owner": vm.owner,
            "boots_before": vm.boots_before,
        }

    def save(self, vm: VM) -> None:
        """Write the record of an ended VM."""
        record = self.keepsake(vm) | {"status": vm.status.to_message(), "counts": asdict(vm.counts)}
        record["boots_before"] = vm.boot_count
        path = self._dir / f"{vm.name}.json"
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(record))
            fresh.rename(path)
        except OSError as error:
            log.warning("VM '%s' will be forgotten at a restart: %s", vm.name, error)

    def remove(self, name: str) -> None:
        """Forget the record; nothing where there is none."""
        (self._dir / f"{name}.json").unlink(missing_ok=True)

    def load(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and record of each ended VM; a broken file is told and passed over."""
        for path in sorted(self._dir.glob("*.json")):
            try:
                record = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                log.warning("Cannot read %s: %s, ignoring", path, error)
                continue
            yield path.name.removesuffix(".json"), record

    def restore(self, vm: VM, record: dict[str, Any], limits: Limits) -> None:
        """Give `vm` what the record says."""
        try:
            vm.options = parse_options(given_from_json(record.get("options", {})), limits)
        except ChdebugdError as error:
            log.warning("VM '%s' keeps running with options unknown: %s", vm.name, error)
            vm.options = VmOptions.empty()
        vm.owner = int(record.get("owner", 0))
        vm.boots_before = int(record.get("boots_before", 0))
        if "status" in record:
            vm.status = Status(**record["status"])
            vm.restore_counts(record["counts"])
