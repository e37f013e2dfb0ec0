"""What a VM process tells the journal of its VM, beside the events: one method an entry."""

from __future__ import annotations

import os
import time

from chdebugd.state import State
from chdebugd.trace.event import seconds
from chdebugd.trace.journal import DEBUG, ERR, INFO, WARNING, MessageId
from chdebugd.trace.ring import Ring
from chdebugd.vm_sinks import VmSinks
from chdebugd.vmm.machine import Machine, MachineConfig
from chdebugd.vmm.outcome import GOOD, Outcome
from chdebugd.vmm.self_test import ExitCost


class VmEntries:
    """Entries are thrown away until the sinks have a journal."""

    def __init__(self, name: str, sinks: VmSinks, ring: Ring) -> None:
        self._name = name
        self._sinks = sinks
        self._ring = ring
        self._stalled_before = 0
        self._failures_told: dict[str, int] = {}

    def begin_boot(self) -> None:
        """Stalls and failures count from here."""
        self._stalled_before = self._ring.stalled_nsec
        self._failures_told = {}

    def _post(self, kind: MessageId, message: str, priority: int, **fields: str) -> None:
        if self._sinks.journal:
            self._sinks.journal.post(kind, message, priority, **fields)
            self._sinks.wake()

    def state(self, state: State) -> None:
        """The VM went to this state."""
        self._post(MessageId.VM_STATE, f"VM '{self._name}' is {state}", INFO, STATE=state)

    def phase(self, phase: str, at: int | None = None) -> None:
        """The host did something for the guest, at `at` or now (nanoseconds, CLOCK_MONOTONIC)."""
        elapsed = (at or time.monotonic_ns()) - self._ring.start_nsec
        self._post(
            MessageId.HOST_PHASE,
            f"Host phase {phase} after {seconds(elapsed)} seconds",
            DEBUG,
            PHASE=phase,
            ELAPSED=seconds(elapsed),
            ELAPSED_NSEC=str(elapsed),
        )

    def started(self, config: MachineConfig, about: dict[str, str | int]) -> None:
        """A boot begins; of `about`, what is not empty becomes a field."""
        self._post(
            MessageId.VM_STARTED,
            f"VM '{self._name}' starts boot {self._ring.boot}",
            INFO,
            CPUS=str(config.cpus),
            MEMORY=str(config.memory),
            START_NSEC=str(self._ring.start_nsec),
            **{name: str(value) for name, value in about.items() if value},
        )

    def exit_cost(self, cost: ExitCost) -> None:
        """What a mark costs here, or that none will be seen."""
        if cost.traps:
            self._post(
                MessageId.EXIT_COST,
                f"One mark costs the guest about {cost.nsec} ns on this host",
                DEBUG,
                EXIT_COST_NSEC=str(cost.nsec),
            )
        else:
            self._post(
                MessageId.PORT_PASSES_THROUGH,
                "KVM of this host lets guests write to port 0x80 itself, so no mark will be seen; "
                "use Linux 4.15 or later",
                ERR,
            )

    def failures(self, machine: Machine, *, final: bool = False) -> None:
        """A device's first failure at once, and how many there were at the end of the boot."""
        for device, (count, error) in machine.failures.items():
            told = self._failures_told.get(device, 0)
            if told and not (final and count > told):
                continue
            self._failures_told[device] = count
            self._post(
                MessageId.DISK_ERROR,
                f"The host failed {count} requests of {device}: {os.strerror(error)}",
                ERR,
                DEVICE=device,
                ERRNO=str(error),
                FAILURES=str(count),
            )

    def stall(self) -> None:
        """How long the guest waited on the ring in this boot; nothing where it did not."""
        nsec = self._ring.stalled_nsec - self._stalled_before
        if nsec:
            self._post(
                MessageId.VM_STALLED,
                f"The guest waited {nsec // 1000} us on a full event ring in this boot",
                WARNING,
                STALLED_USEC=str(nsec // 1000),
            )

    def reset(self, outcome: Outcome) -> None:
        """A boot is over, and another follows."""
        self._post(
            MessageId.VM_RESET,
            f"{outcome.sentence}; boot {self._ring.boot + 1} follows",
            INFO,
            NEXT_BOOT=self._ring.boot_id(self._ring.boot + 1),
            EVENTS=str(self._ring.boot_events()),
        )

    def ended(self, state: State, outcome: Outcome) -> None:
        """The VM has ended, well or not."""
        good = outcome.result in GOOD
        self._post(
            MessageId.VM_STOPPED if good else MessageId.VM_FAILED,
            f"VM '{self._name}' {state}: {outcome.sentence}",
            INFO if good else ERR,
            RESULT=outcome.result,
            EVENTS=str(self._ring.boot_events()),
            **outcome.fields,
        )
