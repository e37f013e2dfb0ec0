"""What a daemon needs to know of VMs that another daemon made.

Of each VM there is a small file in the runtime directory, written at every change of its state.
A VM process that ends leaves another one, for the case that no daemon runs. A file that cannot be
written costs the record, never a guest.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chdebugd.control import Status, check_figure
from chdebugd.counts import Counts
from chdebugd.errors import ChdebugdError
from chdebugd.given import given_from_json
from chdebugd.limits import Limits
from chdebugd.options import VmOptions, parse_options
from chdebugd.vm import VM
from chdebugd.vm_directories import VmDirectories

log = logging.getLogger(__name__)
Record = dict[str, Any]
NO_LIMITS = Limits(vcpus_per_vm=1 << 32, memory_per_vm=1 << 64)


class VmRecords:
    """RUNTIME_DIR/vm/NAME.json for each VM, and the last words of its process."""

    def __init__(self, directories: VmDirectories) -> None:
        self._directories = directories
        self._dir = directories.path
        self._failed: set[str] = set()

    def keepsake(self, vm: VM) -> Record:
        """What to give to the VM process."""
        return {
            "options": vm.options.to_json(),
            "owner": vm.owner,
            "boots_before": vm.signals.boots_before,
        }

    def save(self, vm: VM) -> None:
        """Write what is known of a VM; a failure is told once a VM."""
        state = {"status": vm.status.to_message(), "counts": vm.counts._asdict()}
        record = self.keepsake(vm) | state | {"owes_end": vm.owes_end}
        path = self._dir / f"{vm.name}.json"
        fresh = path.with_name(f"{path.name}.new")
        try:
            fresh.write_text(json.dumps(record))
            fresh.rename(path)
            self._failed.discard(vm.name)
        except OSError as error:
            if vm.name not in self._failed:
                log.warning("VM '%s' may be forgotten at a restart: %s", vm.name, error)
            self._failed.add(vm.name)

    def remove(self, name: str) -> None:
        """Forget all of a VM."""
        self._failed.discard(name)
        with contextlib.suppress(OSError):
            (self._dir / f"{name}.json").unlink(missing_ok=True)
        self._directories.remove(name)

    def load(self) -> Iterator[tuple[str, Record]]:
        """Name and record of each VM; a broken file is told and passed over."""
        for path in sorted(self._dir.glob("*.json")):
            record = _read(path)
            if record is not None:
                yield path.name.removesuffix(".json"), record

    def restore(self, vm: VM, record: Record) -> None:
        """Give `vm` what the record, or what its process kept, says.

        Limits hold for starts: what runs was allowed by the limits of its day.
        """
        try:
            vm.options = parse_options(given_from_json(record.get("options", {})), NO_LIMITS)
        except (ChdebugdError, TypeError, ValueError, AttributeError) as error:
            log.warning("The options of VM '%s' cannot be read again: %s", vm.name, error)
            vm.options, vm.has_options = VmOptions.empty(), False
        vm.owner = _figure(vm, record, "owner")
        vm.signals.boots_before = _figure(vm, record, "boots_before")
        vm.owes_end = bool(record.get("owes_end", False))
        if "status" in record:
            _restore_state(vm, record)

    def take_last_words(self, vm: VM) -> None:
        """What a process said to nobody when it ended; nothing where it could not."""
        said = self._directories.take_last_words(vm.name)
        words = _parse(f"the last words of VM '{vm.name}'", said) if said else None
        if words is not None:
            _restore_state(vm, words)


def _figure(vm: VM, record: Record, key: str) -> int:
    figure = record.get(key, 0)
    try:
        check_figure(figure, 32)
    except ValueError as error:
        log.warning("The record of VM '%s' is broken: %s, not %r, ignoring", vm.name, error, figure)
        return 0
    return int(figure)


def _read(path: Path) -> Record | None:
    try:
        return _parse(str(path), path.read_bytes())
    except OSError as error:
        log.warning("Cannot read %s: %s, ignoring", path, error)
        return None


def _parse(name: str, data: bytes) -> Record | None:
    try:
        record = json.loads(data)
        if not isinstance(record, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        log.warning("Cannot read %s: %s, ignoring", name, error)
        return None
    return record


def _restore_state(vm: VM, record: Record) -> None:
    try:
        status = Status.from_message(record.get("status"))
        counts = Counts.from_json(record.get("counts", {}))
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("The record of VM '%s' is broken: %s, ignoring", vm.name, error)
        return
    vm.restore(status, counts)
