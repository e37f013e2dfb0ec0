"""The table of VMs: making, finding, starting again and removing them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from chdebugd.control import SOCKET_DIR, Status, close_all
from chdebugd.errors import (
    ChdebugdError,
    LimitExceededError,
    NoSuchVMError,
    StartFailedError,
    VMExistsError,
    WrongStateError,
)
from chdebugd.files import FileOpener, OpenFile
from chdebugd.launcher import Launcher
from chdebugd.limits import Limits
from chdebugd.options import VmOptions, check_name
from chdebugd.recovery import Recovery
from chdebugd.state import State
from chdebugd.trace.event import Event
from chdebugd.vm import VM
from chdebugd.vm_records import VmRecords
from chdebugd.vmm.outcome import Result

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """The bus side: told of VMs that come, change and go."""

    def added(self, vm: VM) -> None:
        """A VM is there from now on."""

    def removed(self, vm: VM) -> None:
        """It is no more."""

    def status_changed(self, vm: VM, old: Status) -> None:
        """See vm.Listener; only for VMs that were added."""

    def counts_changed(self, vm: VM) -> None:
        """See vm.Listener."""

    def events(self, vm: VM, events: list[Event]) -> None:
        """See vm.Listener."""

    def has_room(self) -> bool:
        """See vm.Listener."""


class Manager:
    """All VMs of this daemon by name. Is the listener of each."""

    def __init__(
        self,
        runtime_dir: Path,
        opener: FileOpener,
        limits: Limits,
        launcher: Launcher,
        watcher: Watcher,
        *,
        journal: str,
    ) -> None:
        """`journal` is the path of journald's socket, empty for the usual one."""
        self.limits = limits
        self.vms: dict[str, VM] = {}
        self._socket_dir = runtime_dir / SOCKET_DIR
        self._opener = opener
        self._launcher = launcher
        self._watcher = watcher
        self._journal = journal
        self._records = VmRecords(runtime_dir)
        self._recovery = Recovery(journal)
        self._files: dict[str, list[OpenFile]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, name: str) -> VM:
        """The VM called `name`; raises NoSuchVMError."""
        try:
            return self.vms[name]
        except KeyError:
            raise NoSuchVMError(
                f"There is no VM '{name[:80]}'; ListVMs tells those that are"
            ) from None

    # Making and starting

    async def start_vm(self, name: str, options: VmOptions, fds: list[int], owner: int) -> VM:
        """Make a VM and boot it; all or nothing. `fds` stay the caller's."""
        requested_nsec = time.monotonic_ns()
        check_name(name)
        self._check_room(name, owner)
        files = self._opener.open_all(options.files, fds)
        vm = self.vms[name] = VM(name, options, self, owner)
        vm.requested_nsec = requested_nsec
        self._files[name] = files
        try:
            await self._boot(vm)
        except BaseException:
            await self._discard(vm)
            raise
        return vm

    def _check_room(self, name: str, owner: int) -> None:
        if name in self.vms:
            raise VMExistsError(f"VM '{name}' exists; remove it, or choose another name")
        if len(self.vms) >= self.limits.vms:
            raise LimitExceededError(
                f"There are {len(self.vms)} VMs, and the limit is {self.limits.vms}; remove some"
            )
        owned = sum(vm.owner == owner for vm in self.vms.values())
        if owned >= self.limits.vms_per_user:
            raise LimitExceededError(
                f"User {owner} has {owned} VMs, and the limit is {self.limits.vms_per_user}; "
                "remove some"
            )

    async def start_again(self, vm: VM) -> None:
        """Boot a VM that has ended; raises WrongStateError."""
        if not vm.has_ended:
            raise WrongStateError(f"VM '{vm.name}' is {vm.state}; only an ended VM can start")
        vm.requested_nsec = time.monotonic_ns()
        self._files[vm.name] = self._reopen(vm)
        await self._boot(vm)

    def _reopen(self, vm: VM) -> list[OpenFile]:
        """Paths are opened anew; descriptors are the ones that were handed over."""
        old = {file.role: file for file in self._files.pop(vm.name, [])}
        by_path = tuple(option for option in vm.options.files if option.path is not None)
        kept = [old.pop(o.role) for o in vm.options.files if o.path is None and o.role in old]
        close_all([file.fd for file in old.values()])
        if len(by_path) + len(kept) < len(vm.options.files):
            raise WrongStateError(
                f"The descriptors of VM '{vm.name}' were lost when the daemon restarted; "
                "remove it and start it with new ones"
            )
        return self._opener.open_all(by_path, []) + kept

    async def _boot(self, vm: VM) -> None:
        files = self._files[vm.name]
        await self._launcher.start(vm.name)
        try:
            await vm.connect(self._socket_of(vm.name))
        except OSError as error:
            raise StartFailedError(f"Cannot reach the process of VM '{vm.name}': {error}") from None
        self._watcher.added(vm)
        request = vm.options.request._replace(
            files=tuple(file.role for file in files),
            journal=self._journal,
            requested_nsec=vm.requested_nsec,
            keep=self._records.keepsake(vm),
        )
        await vm.start(request, [file.fd for file in files])

    def _socket_of(self, name: str) -> Path:
        return self._socket_dir / f"{name}.sock"

    async def _discard(self, vm: VM) -> None:
        """Leave nothing of a VM whose start failed."""
        vm.close()
        await self._launcher.kill(vm.name)
        self._forget(vm)

    def _forget(self, vm: VM) -> None:
        self.vms.pop(vm.name, None)
        close_all([file.fd for file in self._files.pop(vm.name, [])])
        self._records.remove(vm.name)
        self._watcher.removed(vm)

    # Ending

    async def kill(self, vm: VM) -> None:
        """Switch off, and end the process where it does not do so itself."""
        if vm.has_ended:
            return
        try:
            async with asyncio.timeout(5):
                await vm.call("kill")
        except (TimeoutError, ChdebugdError):  # it hangs, or is just about to be gone
            await self._launcher.kill(vm.name)

    async def remove(self, vm: VM) -> None:
        """Kill it where it runs, and forget it."""
        await self.kill(vm)
        vm.close()
        self._forget(vm)

    def reopen_logs(self) -> None:
        """Let every VM write its log file anew, for log rotation."""
        for vm in list(self.vms.values()):
            for file in self._files.get(vm.name, []):
                if file.role.role == "log-file" and file.path and not vm.has_ended:
                    self._spawn(self._reopen_log(vm, file.path))

    async def _reopen_log(self, vm: VM, path: Path) -> None:
        try:
            fd = self._opener.open_log(path)
        except ChdebugdError as error:
            log.warning("VM '%s' keeps its old log file: %s", vm.name, error)
            return
        try:
            await vm.call("reopen-log", [fd])
        except ChdebugdError as error:
            log.warning("VM '%s' keeps its old log file: %s", vm.name, error)
        finally:
            close_all([fd])

    # What VMs tell

    def status_changed(self, vm: VM, old: Status) -> None:
        """Keep a record of an ended VM, and pass it on."""
        if self.vms.get(vm.name) is vm:
            self._watcher.status_changed(vm, old)

    def counts_changed(self, vm: VM) -> None:
        """Pass it on."""
        self._watcher.counts_changed(vm)

    def events(self, vm: VM, events: list[Event]) -> None:
        """Pass them on."""
        self._watcher.events(vm, events)

    def has_room(self) -> bool:
        """Pass it on."""
        return self._watcher.has_room()

    def process_gone(self, vm: VM) -> None:
        """Find out whether the process is dead, and take over what it left."""
        self._spawn(self._after_process(vm))

    async def _after_process(self, vm: VM) -> None:
        if self.vms.get(vm.name) is not vm:
            return
        if await self._is_alive(vm):
            return
        if not vm.has_ended and vm.state != State.CREATED:
            vm.set_ended(*_why_died(vm))
        if vm.ring is not None:
            await self._recovery.recover(vm, self._log_fd(vm))
            vm.pump()
        self._records.save(vm)

    async def _is_alive(self, vm: VM) -> bool:
        """A process that only lost this connection takes a new one."""
        try:
            await vm.connect(self._socket_of(vm.name))
        except (OSError, ChdebugdError):
            return False
        return True

    def _log_fd(self, vm: VM) -> int:
        logs = [f.fd for f in self._files.get(vm.name, []) if f.role.role == "log-file"]
        return logs[0] if logs else -1

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # After a restart of the daemon

    async def adopt_all(self) -> None:
        """Find the VM processes that run, and the records of those that do not."""
        for path in sorted(self._socket_dir.glob("*.sock")):
            await self._adopt(path)
        for name, record in self._records.load():
            if name not in self.vms:
                vm = self.vms[name] = VM(name, VmOptions.empty(), self, 0)
                self._records.restore(vm, record, self.limits)
                self._watcher.added(vm)

    async def _adopt(self, path: Path) -> None:
        name = path.name.removesuffix(".sock")
        vm = VM(name, VmOptions.empty(), self, 0)
        self.vms[name] = vm
        try:
            hello = await vm.connect(path)
        except (OSError, ChdebugdError):
            del self.vms[name]
            path.unlink(missing_ok=True)
            return
        self._records.restore(vm, hello.get("keep") or {}, self.limits)
        self._files[name] = self._reopen_files_of(vm)
        self._watcher.added(vm)

    def _reopen_files_of(self, vm: VM) -> list[OpenFile]:
        """The log file by its path again, for rotation; the images are the VM process's."""
        logs = tuple(o for o in vm.options.files if o.path and o.role.role == "log-file")
        try:
            return self._opener.open_all(logs, [])
        except ChdebugdError as error:
            log.warning("The log file of VM '%s' cannot be reopened: %s", vm.name, error)
            return []


def _why_died(vm: VM) -> tuple[Result, str]:
    """What the ring tells of the end of a process that could not speak."""
    call = vm.ring.forbidden_call if vm.ring else None
    if call is None:
        return Result.PROCESS_DIED, "The VM process ended without saying why"
    return (
        Result.FORBIDDEN_CALL,
        f"A vCPU thread was ended at system call {call}, which its filter forbids; "
        "suspect the guest, and report this as a bug",
    )
