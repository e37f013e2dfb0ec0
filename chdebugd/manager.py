"""The table of VMs: making, starting again, ending, removing and finding them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from chdebugd.adoption import Adoption, ring_name
from chdebugd.control import close_all
from chdebugd.disk_lock import unlock_image
from chdebugd.errors import (
    ChdebugdError,
    NoSuchVMError,
    NotRespondingError,
    WrongStateError,
)
from chdebugd.files import FileOpener
from chdebugd.journal_gaps import JournalGaps
from chdebugd.journald_watch import JournaldWatch
from chdebugd.launcher import Launcher
from chdebugd.limits import Limits
from chdebugd.log_rotation import reopen_log
from chdebugd.options import LOGS, VmOptions, check_name
from chdebugd.recovery import Recovery
from chdebugd.remains import why_died
from chdebugd.room import check_room
from chdebugd.state import State
from chdebugd.systemd_notify import forget_fd, store_fd
from chdebugd.takeover import Takeovers
from chdebugd.trace.event import Event
from chdebugd.vm import VM
from chdebugd.vm_directories import VmDirectories
from chdebugd.vm_records import Record, VmRecords
from chdebugd.vm_starter import VmStarter
from chdebugd.vmm.outcome import Result

END_TIMEOUT = 2.0  # seconds for a process to end by itself after a start that failed
FORMER_TIMEOUT = 10.0  # seconds that a start waits for the VM's last process
GREETING_TIMEOUT = 1.0  # seconds that the daemon's own start waits for VM processes
RECONNECT = 1.0  # seconds until a process that let nobody in is tried again
STOP_MARGIN = 10.0  # seconds beyond the timeout of a stop
FOREVER = 1 << 62  # microseconds; a longer timeout is none


class Watcher(Protocol):
    """The bus side: told of VMs that come, change and go."""

    def added(self, vm: VM) -> None:
        """A VM is there from now on; nothing where it was there already."""

    def removed(self, vm: VM) -> None:
        """It is no more; nothing where it was not there."""

    def status_changed(self, vm: VM) -> None:
        """See vm.Listener."""

    def counts_changed(self, vm: VM) -> None:
        """See vm.Listener."""

    def events(self, vm: VM, events: list[Event]) -> None:
        """See vm.Listener."""

    def has_room(self, vm: VM) -> bool:
        """See vm.Listener; False for a VM that was not added."""


class Manager:
    """All VMs of this daemon by name. Is the listener of each."""

    def __init__(
        self,
        runtime_dir: Path,
        opener: FileOpener,
        limits: Limits,
        launcher: Launcher,
        watcher: Watcher,
        recovery: Recovery,
        *,
        journal: str,
    ) -> None:
        """`journal` is the path of journald's socket, empty for the usual one."""
        self.limits = limits
        self.vms: dict[str, VM] = {}
        self._directories = VmDirectories(runtime_dir)
        self._opener = opener
        self._launcher = launcher
        self._watcher = watcher
        self._records = VmRecords(self._directories)
        self._starter = VmStarter(
            self._directories, launcher, self._records, limits.bytes_per_file, journal
        )
        self._adoption = Adoption(self._directories, self._records, opener)
        self._takeovers = Takeovers(recovery, launcher, self._taken_over)
        self._leaving: dict[str, VM] = {}
        self._gaps = JournalGaps(lambda: [*self.vms.values(), *self._leaving.values()])
        self._journald: JournaldWatch | None = None
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
        if name in self._leaving:
            await self._wait_for_former(self._leaving[name])
        check_room(self.limits, self.vms.values(), name, owner, options.request)
        vm = VM(name, options, self, owner)
        vm.requested_nsec = requested_nsec
        vm.files = self._opener.open_all(options.files, fds)
        self.vms[name] = vm
        try:
            with self._starter.begun(vm):
                await self._starter.boot(vm)
        except BaseException:
            await self._discard(vm)
            raise
        return vm

    async def start_again(self, vm: VM) -> None:
        """Boot a VM that has ended; raises WrongStateError and what a start raises."""
        requested_nsec = time.monotonic_ns()
        if not vm.has_ended or vm in self._starter.starting:
            raise WrongStateError(f"VM '{vm.name}' is {_doing(vm)}; only an ended VM can start")
        if not vm.has_options:
            raise WrongStateError(
                f"The options of VM '{vm.name}' are not known to this version; remove the VM, and "
                "start it with its options"
            )
        with self._starter.begun(vm):
            try:
                await self._wait_for_former(vm)
                await self._boot_again(vm, requested_nsec)
            except ChdebugdError as error:
                if isinstance(error, NotRespondingError):
                    await self._starter.end(vm)
                if vm.state == State.CREATED:  # its new process came no further
                    vm.set_died(Result.START_FAILED, str(error))
                raise

    async def _boot_again(self, vm: VM, requested_nsec: int) -> None:
        others = [each for each in self.vms.values() if each is not vm]
        check_room(self.limits, others, vm.name, vm.owner, vm.options.request)
        files = self._opener.open_again(vm.options.files, vm.files)
        close_all([file.fd for file in vm.files])
        vm.files, vm.requested_nsec = files, requested_nsec
        vm.kill_requested = vm.owes_end = False
        await self._starter.boot(vm)

    async def _wait_for_former(self, vm: VM) -> None:
        gone = await vm.wait_gone(FORMER_TIMEOUT)
        if not gone or not await self._takeovers.wait_held(vm, FORMER_TIMEOUT):
            raise WrongStateError(
                f"The last process of VM '{vm.name}' still writes its marks; try again, or see "
                "whether journald and the disk work"
            )
        self._takeovers.set_apart(vm)

    async def _discard(self, vm: VM) -> None:
        """Leave nothing of a VM whose start failed; what its process has to say it may say."""
        if not vm.has_process or not await vm.wait_gone(END_TIMEOUT):
            await self._starter.end(vm)
        if await self._takeovers.wait_held(vm, END_TIMEOUT):
            for file in vm.files:
                file.discard()
            vm.files = []
        self._forget(vm)

    def _forget(self, vm: VM) -> None:
        """Take it out of the table; another one of that name stays."""
        if self.vms.get(vm.name) is vm:
            del self.vms[vm.name]
            self._records.remove(vm.name)
            self._watcher.removed(vm)
        if vm.has_process or self._takeovers.are_under_way(vm):
            self._leaving[vm.name] = vm
        else:
            self._close_for_good(vm)

    def _close_for_good(self, vm: VM) -> None:
        if self._leaving.get(vm.name) is vm:
            del self._leaving[vm.name]
        if vm.name not in self.vms:
            forget_fd(ring_name(vm.name))
        vm.close()

    # Ending

    async def stop(self, vm: VM, timeout_usec: int) -> None:
        """Press the power button, and switch off after the timeout; done when the VM has ended."""
        within = None if timeout_usec >= FOREVER else timeout_usec / 1e6 + STOP_MARGIN
        await vm.call("stop", within=within, timeout_usec=timeout_usec)

    async def kill(self, vm: VM) -> None:
        """Switch off, and end the process where it does not do so itself."""
        if vm in self._starter.starting and (vm.has_ended or not vm.has_process):
            raise WrongStateError(f"VM '{vm.name}' is being started; wait until it runs")
        if vm.has_ended:
            return
        vm.kill_requested = True
        if not vm.has_process:  # it lets nobody in, since before this daemon
            await self._launcher.kill(vm.name)
            return
        try:
            await vm.call("kill")
        except ChdebugdError:  # it hangs, or is just about to be gone
            if not vm.has_ended:
                await self._starter.end(vm)

    async def remove(self, vm: VM) -> None:
        """Kill it where it runs, and forget it; its process may still write marks."""
        await self.kill(vm)
        if self.vms.get(vm.name) is not vm:
            raise NoSuchVMError(f"VM '{vm.name}' has been removed already")
        self._forget(vm)

    def reopen_logs(self) -> None:
        """Let every VM write its log and text files anew, for log rotation."""
        for vm in list(self.vms.values()):
            for file in vm.files:
                if file.role.role in LOGS and file.path and vm.has_process:
                    self._spawn(reopen_log(vm, file.role.role, file.path, self._opener))

    # What VMs tell

    def greeted(self, vm: VM, keep: Record) -> None:
        """A VM process is there: ours, or one that an earlier daemon started."""
        if vm.ring is not None:
            store_fd(ring_name(vm.name), vm.ring.fd)
        if vm.state == State.CREATED and vm not in self._starter.starting:
            self._spawn(self._discard(vm))  # the daemon that wanted it died before it said so
            return
        if not vm.is_known and vm.has_ended:
            self._leave(vm)
            return
        if not vm.is_known:
            self._adoption.restore(vm, keep)
        self._watcher.added(vm)

    def status_changed(self, vm: VM) -> None:
        """Keep it for the next daemon, and pass it on."""
        if self.vms.get(vm.name) is vm:
            self._records.save(vm)
            self._watcher.status_changed(vm)

    def counts_changed(self, vm: VM) -> None:
        """Pass it on."""
        self._watcher.counts_changed(vm)

    def events(self, vm: VM, events: list[Event]) -> None:
        """Pass them on."""
        self._watcher.events(vm, events)

    def has_room(self, vm: VM) -> bool:
        """Pass it on."""
        return self._watcher.has_room(vm)

    def process_gone(self, vm: VM) -> None:
        """Take over what the process left."""
        self._launcher.ended(vm.name)
        was_killed = self._directories.remove_socket(vm.name)
        for file in vm.files:
            if file.role.role == "disk":
                unlock_image(file.fd)
        if self._leaving.get(vm.name) is vm:
            self._records.remove(vm.name)  # it has just left its last words
        if not _has_begun(vm):  # whoever started it knows by the answer
            if self._leaving.get(vm.name) is vm:
                self._close_for_good(vm)
            return
        vm.owes_end = vm.owes_end or was_killed or not vm.has_ended
        if not vm.has_ended:
            vm.set_died(*why_died(vm))
        elif vm.owes_end:
            self._save(vm)
        self._takeovers.begin(vm)

    def _taken_over(self, vm: VM) -> None:
        """All that it left is written."""
        if self._leaving.get(vm.name) is vm:
            self._close_for_good(vm)
        elif self.vms.get(vm.name) is vm:
            vm.signals.pump()
            self._save(vm)
        else:
            vm.close()

    def _save(self, vm: VM) -> None:
        if self.vms.get(vm.name) is vm:
            self._records.save(vm)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish_takeovers(self, within: float) -> None:
        """Write what dead processes left, as far as it can be done in so many seconds."""
        await self._takeovers.finish(within)

    def close(self) -> None:
        """Let go of all VMs; their processes live on, and what is taken over goes to its end."""
        if self._journald is not None:
            self._journald.close()
        self._gaps.close()
        for vm in [*self.vms.values(), *self._leaving.values()]:
            if not self._takeovers.needs(vm):
                vm.close()
        self.vms.clear()
        self._leaving.clear()

    # After a restart of the daemon

    async def adopt_all(self) -> None:
        """Find all VMs that an earlier daemon had; a process that does not answer comes later."""
        for vm in self._adoption.find(self):
            self.vms[vm.name] = vm
            if vm.is_known and vm.state != State.CREATED:
                self._watcher.added(vm)
            self._meet(vm)
        for kept_as, former in self._adoption.find_former(self.vms, self):
            self._takeovers.begin_former(former, kept_as)
        greetings = [
            asyncio.create_task(vm.wait_gone_or_greeted())
            for vm in self.vms.values()
            if vm.has_process
        ]
        if greetings:
            await asyncio.wait(greetings, timeout=GREETING_TIMEOUT)

    def watch_journald(self, main_pid: Callable[[], Awaitable[int]]) -> None:
        """Once all VMs are there: whenever it dies, and has died, send again what it lost."""
        self._journald = JournaldWatch(main_pid, self._gaps.journald_died)
        self._spawn(self._gaps.look_back())

    def _leave(self, vm: VM) -> None:
        """An earlier daemon had removed it, before all its marks were written."""
        del self.vms[vm.name]
        self._leaving[vm.name] = vm

    def _meet(self, vm: VM) -> None:
        """Connect to the process of a VM that an earlier daemon had, or learn that it is dead."""
        if self.vms.get(vm.name) is not vm:
            return
        try:
            vm.connect(self._directories.socket_of(vm.name))
        except (FileNotFoundError, ConnectionRefusedError, ProcessLookupError):
            self._records.take_last_words(vm)
            if not _has_begun(vm):
                self._directories.remove_socket(vm.name)
                self._forget(vm)
                return
            if not vm.is_known:
                self._leave(vm)
            self.process_gone(vm)
        except (NotRespondingError, OSError):  # or this process may open no more files
            asyncio.get_running_loop().call_later(RECONNECT, self._meet, vm)


def _has_begun(vm: VM) -> bool:
    """Whether there may be marks of it."""
    return vm.state != State.CREATED or (vm.ring is not None and vm.ring.boot > 0)


def _doing(vm: VM) -> str:
    return "being started" if vm.has_ended or vm.state == State.CREATED else str(vm.state)
