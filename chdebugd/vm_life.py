"""The life of one VM inside its own process: machines, boots and how they end.

Everything here runs on the loop's thread. A vCPU thread only writes an eventfd when its run ends.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from chdebugd.control import StartRequest, Status
from chdebugd.errors import ChdebugdError, StartFailedError, WrongStateError
from chdebugd.state import ENDED, State, check_step
from chdebugd.trace.event import seconds
from chdebugd.trace.journal import DEBUG, ERR, INFO, WARNING, MessageId
from chdebugd.trace.ring import Ring
from chdebugd.vm_equipment import Equipment
from chdebugd.vm_loop import VmLoop
from chdebugd.vm_sinks import VmSinks
from chdebugd.vmm.kvm import Kvm, init_signals
from chdebugd.vmm.machine import Machine, Wakers
from chdebugd.vmm.outcome import GOOD, Outcome, Result
from chdebugd.vmm.self_test import ExitCost

Done = Callable[[ChdebugdError | None], None]
"""Called once with the answer to a request."""

HALT_CHECK_FIRST = 0.05  # seconds after a boot's start; doubles while the guest sleeps
HALT_CHECK_BUSY = 1.0
HALT_CHECK_SHARE = 0.01  # of a CPU; a guest that takes more is not halted
HALT_CHECK_MAX = 32.0
RESETS_WATCHED = 10  # so many resets within a second are slowed down
RESET_DELAY = 0.1  # seconds
FOREVER = 1 << 62  # microseconds; a longer timeout is none


class VmLife:
    """Runs machine after machine until the VM ends. `report` tells each change of status."""

    def __init__(
        self,
        name: str,
        loop: VmLoop,
        ring: Ring,
        report: Callable[[Status], None],
        gone: Callable[[], None],
        exit_cost: ExitCost | None = None,
        *,
        socket_path: str,
    ) -> None:
        """`gone` is called when the VM has ended and its sinks are empty.

        `socket_path` is what the paths of the VM's sockets begin with.
        """
        self.name = name
        self.status = Status(exit_cost_nsec=exit_cost.nsec if exit_cost else 0)
        self.keep: dict[str, Any] = {}
        self.ring = ring
        self.signals_eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.sinks = VmSinks(loop, ring, self._sink_has_read)
        self._loop = loop
        self._socket_path = socket_path
        self._report = report
        self._gone = gone
        self._ended_eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._kvm: Kvm | None = None
        self._machine: Machine | None = None
        self._equipment: Equipment | None = None
        self._about_start: dict[str, str | int] = {}
        self._exit_cost = exit_cost
        self._stalled_before = 0
        self._failures_told: dict[str, int] = {}
        self._awaits_entry: Done | None = None
        self._awaits_end: list[Done] = []
        self._recent_resets: deque[float] = deque(maxlen=RESETS_WATCHED)
        loop.add_reader(self._ended_eventfd, self._machine_ended)

    # Requests of the daemon

    def start(self, request: StartRequest, fds: list[int], done: Done) -> None:
        """Boot; `done` once vCPU 0 enters the guest. Takes the descriptors in any case."""
        began = time.monotonic_ns()
        if self._equipment is not None:
            raise WrongStateError(f"VM '{self.name}' is started already")
        self.keep = dict(request.keep)
        self._equipment = Equipment(
            self.name,
            request,
            fds,
            self.sinks,
            self._loop,
            socket_path=self._socket_path,
            typed=self._typed,
        )
        self.ring.set_drop_when_full(request.on_full == "drop")
        self._awaits_entry = done
        init_signals()
        self._about_start = {"CODE_MAP": request.code_map, "REQUESTED_NSEC": request.requested_nsec}
        self._boot(began)

    def pause(self) -> None:
        """Stop the guest between two instructions."""
        machine = self._running("pause")
        machine.pause()
        self._enter(State.PAUSED)

    def resume(self) -> None:
        """Go on after pause."""
        if self.status.state != State.PAUSED or self._machine is None:
            raise WrongStateError(f"VM '{self.name}' is {self.status.state}, not paused")
        self._machine.resume()
        self._enter(State.RUNNING)

    def reset(self) -> None:
        """End this boot and begin the next, as the reset button does."""
        self._running("reset", State.PAUSED).end(Result.RESET, "Reset on request")

    def stop(self, timeout_usec: int, done: Done) -> None:
        """Press the power button, and switch off after the timeout; at once where nobody listens.

        `done` is called when the VM has ended.
        """
        self._must_not_have_ended()
        self._awaits_end.append(done)
        machine = self._machine
        if machine is None:
            self._switch_off(Result.STOPPED, "Stopped on request")
            return
        if self.status.state == State.PAUSED:
            machine.resume()
        if self.status.state != State.STOPPING:
            self._enter(State.STOPPING)
        if not machine.pm1.listens or timeout_usec == 0:
            self._switch_off(Result.STOPPED, "Stopped on request; the guest has no power button")
            return
        machine.pm1.press_power_button()
        if timeout_usec < FOREVER:
            sentence = "Stopped on request; the guest did not obey its power button in time"
            self._loop.call_later(
                "stop", timeout_usec / 1e6, lambda: self._switch_off(Result.STOPPED, sentence)
            )

    def kill(self, done: Done) -> None:
        """Switch off at once; `done` is called when the VM has ended."""
        self._must_not_have_ended()
        self._awaits_end.append(done)
        self._switch_off(Result.KILLED, "Killed on request")

    def reopen_log(self, fd: int) -> None:
        """Write log lines into `fd` from now on."""
        self.sinks.log.reopen(fd)

    def _running(self, verb: str, *also: State) -> Machine:
        if self._machine is None or self.status.state not in (State.RUNNING, *also):
            raise WrongStateError(
                f"VM '{self.name}' is {self.status.state}; only a running VM can {verb}"
            )
        return self._machine

    def _must_not_have_ended(self) -> None:
        """It may have just now, and still write its last marks."""
        if self.status.state in ENDED:
            raise WrongStateError(f"VM '{self.name}' is {self.status.state} already")

    def _switch_off(self, result: Result, sentence: str) -> None:
        if self._machine is not None:
            self._machine.end(result, sentence)
        else:
            self._end(Outcome(result, sentence))

    # One boot

    def _boot(self, began: int) -> None:
        """Build the machine and let it run; what is wrong ends the VM and answers the start."""
        assert self._equipment is not None
        self._enter(State.STARTING)
        self.ring.start_boot(time.monotonic_ns(), began)
        self._stalled_before = self.ring.stalled_nsec
        self._failures_told = {}
        try:
            self._kvm = self._kvm or Kvm.open()
            config = self._equipment.machine_config(self._kvm)
            wakers = Wakers(self.sinks.eventfd, self.signals_eventfd)
            self._machine = Machine(
                self._kvm,
                config,
                self.ring,
                wakers,
                ended=lambda: os.eventfd_write(self._ended_eventfd, 1),
                phase=self._phase,
            )
        except ChdebugdError as error:
            self._start_failed(error)
            return
        except OSError as error:
            self._start_failed(StartFailedError(f"The machine cannot be built: {error}"))
            return
        self._post(
            MessageId.VM_STARTED,
            f"VM '{self.name}' starts boot {self.ring.boot}",
            INFO,
            CPUS=str(config.cpus),
            MEMORY=str(config.memory),
            START_NSEC=str(self.ring.start_nsec),
            **{name: str(value) for name, value in self._about_start.items() if value},
        )
        self._tell_exit_cost()
        self._machine.start()
        self._halt_check_after(HALT_CHECK_FIRST, 0)

    def _tell_exit_cost(self) -> None:
        cost = self._exit_cost
        if cost is None:
            return
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

    def _start_failed(self, error: ChdebugdError) -> None:
        self._answer_start(error)
        self._end(Outcome(Result.START_FAILED, str(error)))

    def _answer_start(self, answer: ChdebugdError | None) -> None:
        """Once; nothing where the start is answered."""
        done, self._awaits_entry = self._awaits_entry, None
        if done:
            done(answer)

    def _typed(self, data: bytes) -> None:
        """What people type; what a guest does not read in time is lost, as on any serial line."""
        if self._machine is not None:
            self._machine.serial.receive(data)

    def _sink_has_read(self) -> None:
        if self._machine is not None:
            self._machine.sink_has_read()

    def woken(self) -> None:
        """Called at each wake-up of the sinks, which the machine causes to be heard."""
        self._entered()
        if self._machine is not None:
            self._tell_failures(self._machine)

    def _entered(self) -> None:
        """VCPU 0 may just have entered the guest."""
        if self.status.state != State.STARTING or not self.ring.first_entry_nsec:
            return
        self._phase("first-entry", self.ring.first_entry_nsec)
        self._enter(State.RUNNING)
        self._answer_start(None)

    def _phase(self, phase: str, at: int | None = None) -> None:
        elapsed = (at or time.monotonic_ns()) - self.ring.start_nsec
        self._post(
            MessageId.HOST_PHASE,
            f"Host phase {phase} after {seconds(elapsed)} seconds",
            DEBUG,
            PHASE=phase,
            ELAPSED=seconds(elapsed),
            ELAPSED_NSEC=str(elapsed),
        )

    # The end of a boot

    def _machine_ended(self) -> None:
        os.eventfd_read(self._ended_eventfd)
        machine, self._machine = self._machine, None
        if machine is None:
            return
        self._entered()
        machine.close()
        self._tell_failures(machine, final=True)
        assert machine.outcome is not None
        self._loop.cancel("halt-check")
        self._tell_stall()
        if machine.outcome.result == Result.RESET and self.status.state != State.STOPPING:
            self._next_boot(machine.outcome)
        else:
            self._loop.cancel("stop")
            self._end(machine.outcome)

    def _next_boot(self, outcome: Outcome) -> None:
        self._about_start.pop("REQUESTED_NSEC", None)
        self._post(
            MessageId.VM_RESET,
            f"{outcome.sentence}; boot {self.ring.boot + 1} follows",
            INFO,
            NEXT_BOOT=self.ring.boot_id(self.ring.boot + 1),
            EVENTS=str(self.ring.boot_events()),
        )
        now = time.monotonic()
        recent = self._recent_resets
        hurry = len(recent) == RESETS_WATCHED and now - recent[0] < 1
        recent.append(now)
        self._loop.call_later(
            "boot", RESET_DELAY if hurry else 0, lambda: self._boot(time.monotonic_ns())
        )

    def _tell_failures(self, machine: Machine, *, final: bool = False) -> None:
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

    def _tell_stall(self) -> None:
        nsec = self.ring.stalled_nsec - self._stalled_before
        if nsec:
            self._post(
                MessageId.VM_STALLED,
                f"The guest waited {nsec // 1000} us on a full event ring in this boot",
                WARNING,
                STALLED_USEC=str(nsec // 1000),
            )

    def _end(self, outcome: Outcome) -> None:
        self._loop.cancel("boot")
        if self._equipment:
            self._equipment.close()  # first: who sees the VM ended may use its disks
        good = outcome.result in GOOD
        state = State.STOPPED if good else State.FAILED
        if self.status.state == State.CREATED:
            self.status = self.status._replace(state=State.STARTING)
        self._post(
            MessageId.VM_STOPPED if good else MessageId.VM_FAILED,
            f"VM '{self.name}' {state}: {outcome.sentence}",
            INFO if good else ERR,
            RESULT=outcome.result,
            EVENTS=str(self.ring.boot_events()),
            **outcome.fields,
        )
        self.status = self.status._replace(result=outcome.result, sentence=outcome.sentence)
        self._enter(state)
        self._answer_start(StartFailedError(outcome.sentence))
        for done in self._awaits_end:
            done(None)
        self._awaits_end.clear()
        self.sinks.finish(self._gone)

    def _enter(self, state: State) -> None:
        """Go to `state`, and tell the daemon and the journal."""
        self.status = self.status._replace(state=check_step(State(self.status.state), state))
        if self._equipment:
            self.status = self.status._replace(terminals=self._equipment.terminals)
        self._post(MessageId.VM_STATE, f"VM '{self.name}' is {state}", INFO, STATE=state)
        self._report(self.status)

    def _post(self, kind: MessageId, message: str, priority: int, **fields: str) -> None:
        if self.sinks.journal:
            self.sinks.journal.post(kind, message, priority, **fields)
            self.sinks.wake()

    # A guest that halted with interrupts off never comes back to tell

    def _halt_check_after(self, delay: float, seen_nsec: int) -> None:
        self._loop.call_later("halt-check", delay, lambda: self._check_halt(delay, seen_nsec))

    def _check_halt(self, delay: float, seen_nsec: int) -> None:
        """Look closer, which stops the vCPUs for a moment, only where they hardly take CPU time.

        Not none: the look itself takes some.
        """
        machine = self._machine
        if machine is None:
            return
        if machine.cpu_nsec - seen_nsec > delay * HALT_CHECK_SHARE * 1e9:
            self._halt_check_after(min(2 * delay, HALT_CHECK_BUSY), machine.cpu_nsec)
            return
        if self.status.state == State.RUNNING:
            machine.end_if_dead_halted()
        self._halt_check_after(min(2 * delay, HALT_CHECK_MAX), machine.cpu_nsec)
