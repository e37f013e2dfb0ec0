"""The process of a VM, from outside: reached or started, told to boot, and ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from chdebugd.errors import StartFailedError
from chdebugd.launcher import Launcher
from chdebugd.vm import VM
from chdebugd.vm_directories import VmDirectories
from chdebugd.vm_records import VmRecords

log = logging.getLogger(__name__)

START_TIMEOUT = 180.0  # seconds to the first instruction: images may lie on slow disks
DEATH_TIMEOUT = 10.0  # seconds for a process to die after SIGKILL


class VmStarter:
    """Boots VMs in their processes, and ends processes that do not end by themselves."""

    def __init__(
        self,
        directories: VmDirectories,
        launcher: Launcher,
        records: VmRecords,
        file_limit: int,
        journal: str,
    ) -> None:
        """`file_limit` is the most bytes of a log or text file, 0 for no limit.

        `journal` is the path of journald's socket, empty for the usual one.
        """
        self._directories = directories
        self._launcher = launcher
        self._records = records
        self._file_limit = file_limit
        self._journal = journal
        self.starting: set[VM] = set()
        """Those whose start has begun and not ended."""

    @contextlib.contextmanager
    def begun(self, vm: VM) -> Iterator[None]:
        """Have it among `starting` for the time of a block."""
        self.starting.add(vm)
        try:
            yield
        finally:
            self.starting.discard(vm)

    async def boot(self, vm: VM) -> None:
        """Done once vCPU 0 enters the guest; raises what the launcher and the process raise."""
        await self._reach(vm)
        await vm.wait_greeted()
        self._directories.keep_exit_cost(vm.name)
        request = vm.options.request._replace(
            files=tuple(file.role for file in vm.files),
            journal=self._journal,
            file_limit=self._file_limit,
            requested_nsec=vm.requested_nsec,
            keep=self._records.keepsake(vm),
        )
        await vm.start(request, START_TIMEOUT)

    async def _reach(self, vm: VM) -> None:
        """Connect to the VM's process: one that waits for us already, or one started now."""
        path = self._directories.socket_of(vm.name)
        with contextlib.suppress(OSError):
            vm.connect(path)
            return
        self._directories.make(vm.name)
        await self._launcher.start(vm.name)
        try:
            vm.connect(path)
        except OSError as error:
            raise StartFailedError(f"Cannot reach the process of VM '{vm.name}': {error}") from None

    async def end(self, vm: VM) -> None:
        """SIGKILL, and wait until it is dead; nothing where there is no process."""
        await self._launcher.kill(vm.name)
        vm.kill_process()
        if not await vm.wait_gone(DEATH_TIMEOUT):
            log.error("The process of VM '%s' does not die; look at its host", vm.name)
        self._directories.remove_socket(vm.name)
