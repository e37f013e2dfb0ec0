"""Finds what an earlier daemon had: records, sockets, and the rings that systemd kept for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping

from chdebugd.errors import ChdebugdError
from chdebugd.files import FileOpener, OpenFile
from chdebugd.options import LOGS, VmOptions, check_name
from chdebugd.systemd_notify import forget_fd, take_stored_fds
from chdebugd.takeover import former_vm
from chdebugd.trace.ring import Ring
from chdebugd.vm import VM, Listener
from chdebugd.vm_directories import VmDirectories
from chdebugd.vm_records import Record, VmRecords

log = logging.getLogger(__name__)
RING = "ring-"


def ring_name(vm: str) -> str:
    """Under which systemd keeps the ring of a VM."""
    return RING + vm


def _vm_of(ring: str) -> str:
    return ring.removeprefix(RING) if ring.startswith(RING) else ""


class Adoption:
    """Makes VMs of what it finds; none of them is connected yet."""

    def __init__(self, directories: VmDirectories, records: VmRecords, opener: FileOpener) -> None:
        self._directories = directories
        self._records = records
        self._opener = opener
        self._rings: dict[str, int] = {}

    def find(self, listener: Listener) -> Iterator[VM]:
        """A VM for each record and for each socket; without a record it `is_known` not."""
        self._rings = take_stored_fds()
        records = dict(self._records.load())
        for name in sorted(self._directories.names() | records.keys()):
            try:
                check_name(name)
            except ChdebugdError as error:
                log.warning("%s in %s: %s, ignoring", name[:80], self._directories.path, error)
                continue
            vm = VM(name, VmOptions.empty(), listener, 0)
            vm.is_known = name in records
            if vm.is_known:
                self.restore(vm, records[name])
            _attach(vm, self._rings.pop(ring_name(name), -1))
            yield vm

    def find_former(self, vms: Mapping[str, VM], listener: Listener) -> Iterator[tuple[str, VM]]:
        """VMs that were removed or started again before all their marks were written.

        Each with the name under which systemd keeps its ring. Call after `find`, with what that
        made.
        """
        for name, fd in self._rings.items():
            vm = VM(former_vm(name) or _vm_of(name), VmOptions.empty(), listener, 0)
            if vm.name in vms:
                vm.options = vms[vm.name].options
            _attach(vm, fd)
            if vm.name and vm.ring is not None and vm.ring.boot:
                yield name, vm
            else:
                vm.close()
                forget_fd(name)

    def restore(self, vm: VM, record: Record) -> None:
        """Give `vm` what the record, or what its process kept, says."""
        self._records.restore(vm, record)
        vm.files = self._open_logs(vm)
        vm.is_known = True

    def _open_logs(self, vm: VM) -> list[OpenFile]:
        """Log and text files by their paths, to open them anew; images are the process's."""
        opened = []
        for option in vm.options.files:
            if option.path and option.role.role in LOGS:
                try:
                    opened += self._opener.open_all((option,), [])
                except ChdebugdError as error:
                    log.warning("VM '%s': %s", vm.name, error)
        return opened


def _attach(vm: VM, fd: int) -> None:
    if fd < 0:
        return
    try:
        vm.signals.attach(Ring(fd))
    except ValueError:
        os.close(fd)
