"""Finds a guest that halted with interrupts off: it never comes back to tell.

    watching ── it sleeps, and only we can wake it ──→ resting
        ↑                                                 │
        └────────────── begin, or stirred ←───────────────┘

KVM tells nobody of a halt, so this looks: soon after a start, then ever more rarely. A guest that
has set a timer may halt for good each time it wakes, and is looked at for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from chdebugd.vm_loop import VmLoop
from chdebugd.vmm.machine import Machine

FIRST = 0.05  # seconds after a boot's start; doubles while the guest sleeps
BUSY_MAX = 1.0
SLEEPING_MAX = 32.0
SHARE = 0.01  # of a CPU; a guest that takes more is not halted
LOOK_NSEC = 300_000  # CPU time that one look takes of a vCPU at most
LOOK_ANYWAY = 8  # checks until a guest that seems to sleep on is looked at again


class HaltWatch:
    """Watches one machine at a time. `may_look` tells whether its vCPUs are running at all."""

    def __init__(self, loop: VmLoop, may_look: Callable[[], bool]) -> None:
        self._loop = loop
        self._may_look = may_look
        self._checks_since_look = LOOK_ANYWAY
        self.rests = False
        """Whether it looks no more until something stirs the guest."""

    def begin(self, machine: Machine) -> None:
        """From the start of a boot, and after a pause."""
        self._checks_since_look = LOOK_ANYWAY
        self.rests = False
        self._after(machine, FIRST, 0)

    def stirred(self, machine: Machine) -> None:
        """Something interrupts the guest from outside; before it does."""
        if self.rests:
            self.begin(machine)

    def end(self) -> None:
        """The machine is over or paused; nothing where none is watched."""
        self._loop.cancel("halt-check")
        self.rests = False

    def _after(self, machine: Machine, delay: float, seen_nsec: int) -> None:
        self._loop.call_later("halt-check", delay, lambda: self._check(machine, delay, seen_nsec))

    def _check(self, machine: Machine, delay: float, seen_nsec: int) -> None:
        """Look closer, which stops the vCPUs for a moment, only where they hardly take CPU time.

        And a guest that slept long and took no more than a look does sleeps on: look rarely then.
        """
        took = machine.cpu_nsec - seen_nsec
        if took > delay * SHARE * 1e9:
            self._checks_since_look = LOOK_ANYWAY
            self._after(machine, min(2 * delay, BUSY_MAX), machine.cpu_nsec)
            return
        self._checks_since_look += 1
        sleeps_on = delay >= SLEEPING_MAX and took <= LOOK_NSEC * len(machine.vcpus)
        if self._may_look() and (self._checks_since_look > LOOK_ANYWAY or not sleeps_on):
            self._checks_since_look = 0
            self.rests = machine.end_if_dead_halted()
        if not self.rests:
            self._after(machine, min(2 * delay, SLEEPING_MAX), machine.cpu_nsec)
