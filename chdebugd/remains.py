"""What a VM's process left when it died, and why it died."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from types import MappingProxyType

from chdebugd.control import Status
from chdebugd.launcher import End, Launcher
from chdebugd.trace.journal import LEVELS
from chdebugd.trace.ring import Reader
from chdebugd.vm import VM
from chdebugd.vmm.outcome import Result

OUT_OF_MEMORY = (
    "The kernel's OOM killer ended the VM process, because the host or the unit's control group "
    "had no memory left; give the VM less, or them more, and see journalctl -k"
)
UNKNOWN = "The VM process ended without saying why"
SIGNALLED = "The VM process was ended by signal {} ({})"
ADVICE: Mapping[int, str] = MappingProxyType(
    {signal.SIGKILL: "; where the kernel did it, for want of memory, journalctl -k says so"}
)


def why_died(vm: VM) -> tuple[Result, str]:
    """What the ring tells of the end of a process that could not speak."""
    if vm.kill_requested:
        return Result.KILLED, "Killed on request, with its process"
    call = vm.ring.forbidden_call if vm.ring else None
    if call is not None:
        return (
            Result.FORBIDDEN_CALL,
            f"A guest's thread was ended at system call {call}, which its filter forbids; "
            "suspect the guest, and report this as a bug",
        )
    return Result.PROCESS_DIED, UNKNOWN


async def learn_why(vm: VM, launcher: Launcher) -> Status:
    """What is said of a VM's end from now on: who started its process may know better."""
    told = vm.status
    end = None
    if told.result == Result.PROCESS_DIED:
        end = await launcher.how_ended(vm.name)
    if end is None:
        return told
    result, sentence = _how_died(end)
    learnt = told._replace(result=result, sentence=sentence)
    if vm.status is told:  # and has not started again
        vm.status_came(learnt)
    return learnt


def _how_died(end: End) -> tuple[Result, str]:
    if end.is_out_of_memory:
        return Result.OOM_KILL, OUT_OF_MEMORY
    text = SIGNALLED.format(end.signal, signal.strsignal(end.signal))
    return Result.PROCESS_DIED, text + ADVICE.get(end.signal, "; report this as a bug")


class Remains:
    """On descriptors of its own: the VM may start again or be removed before all is written."""

    def __init__(self, vm: VM) -> None:
        """Call when the process is found dead; raises OSError where no file may be opened."""
        self.name = vm.name
        self.counts = vm.counts
        self.level = LEVELS[vm.options.request.log_level]
        self.code_map = vm.options.request.code_map
        self.kept_as = ""
        """Under which name systemd keeps the ring, where that is no more the VM's."""
        with contextlib.ExitStack() as stack:
            self.ring = vm.ring.duplicate() if vm.ring else None
            if self.ring is not None:
                stack.callback(self.ring.close)
            self.log_fd = _dup_log(vm)
            """-1 where there is no log file."""
            if self.log_fd >= 0:
                stack.callback(os.close, self.log_fd)
            self._files = stack.pop_all()

    @property
    def is_behind(self) -> bool:
        """Whether there are marks that a lasting sink has not got."""
        ring = self.ring
        if ring is None:
            return False
        return ring.head > min(ring.position(Reader.JOURNAL), ring.position(Reader.LOG))

    def close(self) -> None:
        """Let go of the descriptors."""
        self._files.close()


def _dup_log(vm: VM) -> int:
    logs = [file.fd for file in vm.files if file.role.role == "log-file"]
    return os.dup(logs[0]) if logs else -1
