"""Sees to it that what dead VM processes left is taken over, once, whatever comes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial

from chdebugd.control import Status
from chdebugd.journal_questions import when_there_is_room
from chdebugd.launcher import Launcher
from chdebugd.recovery import Recovery
from chdebugd.remains import UNKNOWN, Remains, learn_why
from chdebugd.systemd_notify import forget_fd, store_fd
from chdebugd.vm import VM
from chdebugd.vmm.outcome import Result

log = logging.getLogger(__name__)
FORMER = "former-"


class Takeovers:
    """Those that are under way."""

    def __init__(self, recovery: Recovery, launcher: Launcher, over: Callable[[VM], None]) -> None:
        """`over` is told when all is written that a VM left."""
        self._recovery = recovery
        self._launcher = launcher
        self._over = over
        self._unheld: dict[VM, asyncio.Event] = {}
        self._held: dict[Remains, VM] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, vm: VM) -> None:
        """Its process is dead, and its state is one of those at the end."""
        end = asyncio.create_task(learn_why(vm, self._launcher)) if vm.owes_end else None
        self._begin(vm, end, "")

    def begin_former(self, vm: VM, kept_as: str) -> None:
        """A VM of an earlier daemon that was removed or started again; systemd keeps its ring."""
        vm.set_died(Result.PROCESS_DIED, UNKNOWN)
        end = asyncio.get_running_loop().create_future()
        end.set_result(vm.status)
        self._begin(vm, end, kept_as)

    def _begin(self, vm: VM, end: asyncio.Future[Status] | None, kept_as: str) -> None:
        self._unheld[vm] = asyncio.Event()
        task = asyncio.create_task(self._take_over(vm, end, kept_as))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_over(self, vm: VM, end: asyncio.Future[Status] | None, kept_as: str) -> None:
        try:
            remains = await when_there_is_room(partial(Remains, vm))
        finally:
            self._unheld.pop(vm).set()
        if kept_as:
            _keep_apart(remains, kept_as)
        self._held[remains] = vm
        with contextlib.closing(remains):
            try:
                await self._recovery.recover(remains, end)
            except Exception:
                log.exception("What VM '%s' left is not taken over; please report this", vm.name)
            del self._held[remains]
            if remains.kept_as:
                forget_fd(remains.kept_as)
        is_last = vm.counts.boot_id == remains.counts.boot_id  # it has not started again
        if is_last:
            vm.owes_end = False
        if is_last or not (vm.has_process or self.are_under_way(vm)):
            self._over(vm)

    def needs(self, vm: VM) -> bool:
        """Whether the VM must keep its descriptors as they are: there are no others yet."""
        return vm in self._unheld

    async def wait_held(self, vm: VM, within: float) -> bool:
        """Whether nothing of the VM is needed any more after at most `within` seconds."""
        if vm in self._unheld:
            waiting = asyncio.ensure_future(self._unheld[vm].wait())
            await asyncio.wait([waiting], timeout=within)
            waiting.cancel()
        return vm not in self._unheld

    def are_under_way(self, vm: VM) -> bool:
        """Whether something is left of the VM that is not written."""
        return vm in self._unheld or vm in self._held.values()

    async def finish(self, within: float) -> None:
        """Until all are over, but no longer than `within` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)

    def set_apart(self, vm: VM) -> None:
        """The VM's name in systemd's store is for its next ring from now on."""
        for remains, each in self._held.items():
            if each is vm:
                _keep_apart(remains, "")


def _keep_apart(remains: Remains, kept_as: str) -> None:
    """Let systemd keep the ring under a name of its own, and no more as `kept_as`."""
    if remains.ring is not None:
        remains.kept_as = f"{FORMER}{remains.counts.boot_id}-{remains.name}"
        store_fd(remains.kept_as, remains.ring.fd)
    if kept_as not in ("", remains.kept_as):
        forget_fd(kept_as)


def former_vm(name: str) -> str:
    """The VM whose ring systemd keeps under such a name; empty where it is none."""
    if not name.startswith(FORMER):
        return ""
    return name.removeprefix(FORMER).partition("-")[2]
