"""The life of one VM inside its own process: machines, boots and how they end.

Everything here runs on the loop's thread. A vCPU thread only writes an eventfd when its run ends.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from chdebugd.control import StartRequest, Status, close_all
from chdebugd.errors import ChdebugdError, StartFailedError, WrongStateError
from chdebugd.halt_watch import HaltWatch
from chdebugd.state import ENDED, State, check_step
from chdebugd.trace.ring import Ring
from chdebugd.vm_entries import VmEntries
from chdebugd.vm_equipment import Equipment
from chdebugd.vm_loop import VmLoop
from chdebugd.vm_sinks import VmSinks
from chdebugd.vmm.kvm import Kvm, confine_process, init_signals
from chdebugd.vmm.machine import Machine, Wakers
from chdebugd.vmm.outcome import GOOD, Outcome, Result
from chdebugd.vmm.self_test import ExitCost

Done = Callable[[ChdebugdError | None], None]
"""Called once with the answer to a request."""

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
        directory: str,
    ) -> None:
        """`gone` is called when the VM has ended and its sinks are empty.

        `directory` is for the sockets of the VM's text ports.
        """
        self.name = name
        self.status = Status(exit_cost_nsec=exit_cost.nsec if exit_cost else 0)
        self.keep: dict[str, Any] = {}
        self.ring = ring
        self.signals_eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.sinks = VmSinks(loop, ring, self._sink_has_read)
        self._entries = VmEntries(name, self.sinks, ring)
        self._halt_watch = HaltWatch(loop, lambda: self.status.state == State.RUNNING)
        self._loop = loop
        self._directory = directory
        self._report = report
        self._gone = gone
        self._ended_eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._kvm: Kvm | None = None
        self._machine: Machine | None = None
        self._equipment: Equipment | None = None
        self._about_start: dict[str, str | int] = {}
        self._exit_cost = exit_cost
        self._awaits_entry: Done | None = None
        self._awaits_end: list[Done] = []
        self._switched_off: Outcome | None = None
        self._recent_resets: deque[float] = deque(maxlen=RESETS_WATCHED)
        loop.add_reader(self._ended_eventfd, self._machine_ended)

    # Requests of the daemon

    def start(self, request: StartRequest, fds: list[int], done: Done) -> None:
        """Boot; `done` once vCPU 0 enters the guest. Takes the descriptors in any case."""
        began = time.monotonic_ns()
        if self._equipment is not None:
            close_all(fds)
            raise WrongStateError(f"VM '{self.name}' is started already")
        self.keep = dict(request.keep)
        self._equipment = Equipment(
            self.name,
            request,
            fds,
            self.sinks,
            self._loop,
            directory=self._directory,
            typed=self._typed,
        )
        self.ring.set_drop_when_full(request.on_full == "drop")
        self._awaits_entry = done
        confine_process()
        init_signals()
        self._about_start = {"CODE_MAP": request.code_map, "REQUESTED_NSEC": request.requested_nsec}
        self._boot(began)

    def pause(self) -> None:
        """Stop the guest between two instructions; raises WrongStateError where it is over."""
        machine = self._running("pause")
        self._halt_watch.end()
        machine.pause()
        if machine.outcome is not None:  # another boot may follow, which would run
            raise WrongStateError(
                f"VM '{self.name}' has just ended its boot; see its State, and call again"
            )
        self._enter(State.PAUSED)

    def resume(self) -> None:
        """Go on after pause."""
        if self.status.state != State.PAUSED or self._machine is None:
            raise WrongStateError(f"VM '{self.name}' is {self.status.state}, not paused")
        self._machine.resume()
        self._enter(State.RUNNING)
        self._halt_watch.begin(self._machine)

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

    def reopen_text(self, port: str, fd: int) -> None:
        """Write the text of `port` into `fd` from now on; takes it in any case."""
        if self._equipment:
            self._equipment.reopen_text(port, fd)
        os.close(fd)

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
            self._switched_off = Outcome(result, sentence)
            self._machine.end(result, sentence)
        else:
            self._end(Outcome(result, sentence))

    # One boot

    def _boot(self, began: int) -> None:
        """Build the machine and let it run; what is wrong ends the VM and answers the start."""
        assert self._equipment is not None
        self._enter(State.STARTING)
        self.ring.start_boot(time.monotonic_ns(), began)
        self._entries.begin_boot()
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
                phase=self._entries.phase,
            )
        except ChdebugdError as error:
            self._start_failed(error)
            return
        except OSError as error:
            self._start_failed(StartFailedError(f"The machine cannot be built: {error}"))
            return
        self._entries.started(config, self._about_start)
        if self._exit_cost:
            self._entries.exit_cost(self._exit_cost)
        try:
            self._machine.start()
        except ChdebugdError as error:
            machine, self._machine = self._machine, None
            machine.close()
            self._start_failed(error)
            return
        self._halt_watch.begin(self._machine)

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
            self._halt_watch.stirred(self._machine)
            self._machine.serial.receive(data)

    def _sink_has_read(self) -> None:
        if self._machine is not None:
            self._machine.sink_has_read()

    def woken(self) -> None:
        """Called at each wake-up of the sinks, which the machine causes to be heard."""
        self._entered()
        if self._machine is not None:
            self._entries.failures(self._machine)

    def _entered(self) -> None:
        """VCPU 0 may just have entered the guest."""
        if self.status.state != State.STARTING or not self.ring.first_entry_nsec:
            return
        self._entries.phase("first-entry", self.ring.first_entry_nsec)
        self._enter(State.RUNNING)
        self._answer_start(None)

    # The end of a boot

    def _machine_ended(self) -> None:
        os.eventfd_read(self._ended_eventfd)
        machine, self._machine = self._machine, None
        if machine is None:
            return
        self._entered()
        machine.close()
        self._entries.failures(machine, final=True)
        assert machine.outcome is not None
        self._halt_watch.end()
        self._entries.stall()
        outcome = machine.outcome
        if outcome.result == Result.RESET and self._switched_off:
            outcome = self._switched_off  # it came while the guest's reset was not heard yet
        if outcome.result == Result.RESET and self.status.state == State.STOPPING:
            outcome = Outcome(Result.STOPPED, "Stopped on request; the guest reset itself")
        if outcome.result == Result.RESET:
            self._next_boot(outcome)
        else:
            self._loop.cancel("stop")
            self._end(outcome)

    def _next_boot(self, outcome: Outcome) -> None:
        self._about_start.pop("REQUESTED_NSEC", None)
        self._entries.reset(outcome)
        now = time.monotonic()
        recent = self._recent_resets
        hurry = len(recent) == RESETS_WATCHED and now - recent[0] < 1
        recent.append(now)
        self._loop.call_later(
            "boot", RESET_DELAY if hurry else 0, lambda: self._boot(time.monotonic_ns())
        )

    def _end(self, outcome: Outcome) -> None:
        self._loop.cancel("boot")
        if self._equipment:
            self._equipment.close()  # first: who sees the VM ended may use its disks
        state = State.STOPPED if outcome.result in GOOD else State.FAILED
        if self.status.state == State.CREATED:
            self.status = self.status._replace(state=State.STARTING)
        self._entries.ended(state, outcome)
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
        self._entries.state(state)
        self._report(self.status)
