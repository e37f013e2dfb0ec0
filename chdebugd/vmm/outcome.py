"""How a run of the machine ends."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class Result(StrEnum):
    """Why the machine stopped; the property Result and the journal's RESULT."""

    SHUTDOWN = "shutdown"
    """The guest switched itself off."""
    RESET = "reset"
    """The guest asked for a reset: another boot follows."""
    HALTED = "halted"
    """All vCPUs halted with interrupts off: nothing can wake them."""
    STOPPED = "stopped"
    """The power button was pressed on request, and the guest went or was switched off."""
    KILLED = "killed"
    """Switched off on request."""
    TRIPLE_FAULT = "triple-fault"
    INTERNAL_ERROR = "internal-error"
    """KVM could not go on (KVM_EXIT_INTERNAL_ERROR)."""
    FAIL_ENTRY = "fail-entry"
    """The processor refused to enter the guest (KVM_EXIT_FAIL_ENTRY)."""
    UNEXPECTED_EXIT = "unexpected-exit"
    DEVICE_ERROR = "device-error"
    """A device model failed; a bug of chdebugd."""
    FORBIDDEN_CALL = "forbidden-call"
    """A vCPU thread made a system call that its filter forbids: a bug, or a break-out."""
    START_FAILED = "start-failed"
    OOM_KILL = "oom-kill"
    """The kernel's OOM killer ended the VM process, as systemd tells."""
    PROCESS_DIED = "process-died"
    """The VM process ended without saying why."""


GOOD = frozenset({Result.SHUTDOWN, Result.HALTED, Result.STOPPED, Result.KILLED})
"""After these a VM is `stopped`; after the others, but for a reset, `failed`."""


class Outcome(NamedTuple):
    """A result, a sentence for people, and journal fields for programs."""

    result: Result
    sentence: str
    fields: Mapping[str, str] = MappingProxyType({})
