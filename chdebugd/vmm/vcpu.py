"""One vCPU's thread: run the guest, hand its exits to the buses, park at the gate."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Self

from chdebugd.errors import LimitExceededError
from chdebugd.vmm import kvm
from chdebugd.vmm.bus import Bus
from chdebugd.vmm.cpu import RFLAGS_IF, has_lapic_timer
from chdebugd.vmm.gate import Gate
from chdebugd.vmm.outcome import Outcome, Result
from chdebugd.vmm.vcpu_fd import VcpuFd

SYSTEM_EVENT_RESET = 2  # KVM_SYSTEM_EVENT_RESET
JOIN_STEP = 0.1  # seconds; a thread that a device keeps busy is kicked again
MAIN_THREAD_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Vcpu:
    """A vCPU and its thread. `finish` is told, on that thread, how the run ended."""

    def __init__(
        self,
        fd: VcpuFd,
        ports: Bus,
        mmio: Bus,
        gate: Gate,
        *,
        room: Callable[[], bool],
        finish: Callable[[Outcome], None],
    ) -> None:
        """`room` tells whether the event ring has room again."""
        self.fd = fd
        self._ports = ports
        self._mmio = mmio
        self._gate = gate
        self._room = room
        self._finish = finish
        self._has_room = threading.Event()
        self._claimed = threading.Event()
        name = f"vcpu{fd.index}"
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)

    # Called from other threads

    def start(self) -> None:
        """Start the thread; it parks at the gate until that opens. Raises LimitExceededError."""
        try:
            self.thread.start()
        except RuntimeError:
            raise LimitExceededError(
                f"The host has no thread left for vCPU {self.fd.index}; end some processes, "
                "or raise the limit of the VM's unit"
            ) from None
        self._claimed.wait()

    def kick(self) -> None:
        """Bring the thread to the gate, wherever it is."""
        if self.thread.is_alive():
            self.fd.kick()
        self._has_room.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the thread, which the gate must have sent home, and close the vCPU."""
        if self.thread.ident is not None:
            while self.thread.is_alive():
                self.kick()
                self.thread.join(JOIN_STEP)
        self.fd.close()

    def sink_has_read(self) -> None:
        """A sink moved on: a vCPU that waits on the full ring looks again."""
        self._has_room.set()

    @property
    def cpu_nsec(self) -> int:
        """CPU time of the thread; it stands still while the guest is halted."""
        if self.thread.ident is None or not self.thread.is_alive():
            return 0
        return time.clock_gettime_ns(time.pthread_getcpuclockid(self.thread.ident))

    @property
    def is_dead_halted(self) -> bool:
        """Halted with interrupts off, or never started. Only while parked."""
        if not self.fd.is_halted:
            return False
        return not self.fd.is_started or not self.fd.get("REGS").rflags & RFLAGS_IF

    @property
    def sleeps(self) -> bool:
        """Halted, or never started, and without a timer of its own. Only while parked."""
        return self.fd.is_halted and not has_lapic_timer(self.fd)

    # The thread

    def _main(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, MAIN_THREAD_SIGNALS)
        self.fd.claim()
        self._claimed.set()
        try:
            self.fd.confine()
            self._loop()
        except OSError as error:
            self._finish(Outcome(Result.UNEXPECTED_EXIT, f"vCPU {self.fd.index}: {error}"))
        except Exception as error:
            sentence = f"A device model failed on {error!r}; please report this bug"
            self._finish(Outcome(Result.DEVICE_ERROR, sentence, {"TRACEBACK": _where(error)}))

    def _loop(self) -> None:
        while self._gate.is_open or self._gate.pass_through():
            reason = self.fd.run()
            if reason == kvm.EXITED:
                outcome = self._dispatch()
                if outcome:
                    self._finish(outcome)
            elif reason == kvm.RING_FULL:
                self._wait_for_room()
        self.fd.give_up()

    def _wait_for_room(self) -> None:
        self._has_room.clear()
        if not self._room():
            self._has_room.wait()

    def _dispatch(self) -> Outcome | None:
        """Handle the last exit; an outcome ends the run (api.rst, the kvm_run structure)."""
        exit = self.fd.exit
        match exit.reason:
            case kvm.EXIT_IO:
                self._access(self._ports, exit.address, exit.size, exit.count, exit.is_write)
            case kvm.EXIT_MMIO:
                self._access(self._mmio, exit.address, exit.size, 1, exit.is_write)
            case kvm.EXIT_INTR:
                pass
            case kvm.EXIT_SHUTDOWN:
                return Outcome(Result.TRIPLE_FAULT, f"Triple fault on vCPU {self.fd.index}")
            case kvm.EXIT_HLT:
                return Outcome(Result.HALTED, f"vCPU {self.fd.index} halted")
            case kvm.EXIT_SYSTEM_EVENT:
                reset = exit.detail == SYSTEM_EVENT_RESET
                return Outcome(Result.RESET if reset else Result.SHUTDOWN, "The guest asked KVM")
            case kvm.EXIT_INTERNAL_ERROR:
                return self._internal_error()
            case kvm.EXIT_FAIL_ENTRY:
                return Outcome(
                    Result.FAIL_ENTRY,
                    f"The processor refused to enter the guest, reason {exit.detail:#x}",
                    {"ENTRY_FAILURE": f"{exit.detail:#x}"},
                )
            case reason:
                return Outcome(Result.UNEXPECTED_EXIT, f"KVM ended the run by exit {reason}")
        return None

    def _access(self, bus: Bus, address: int, size: int, count: int, is_write: int) -> None:
        if count == 1:
            if is_write:
                bus.write(address, size, self.fd.exit.value)
            else:
                self.fd.exit.value = bus.read(address, size)
            return
        for at in range(count):
            data = self.fd.data(at * size, size)
            if is_write:
                bus.write(address, size, int.from_bytes(data[:], "little"))
            else:
                data[:] = bus.read(address, size).to_bytes(size, "little")

    def _internal_error(self) -> Outcome:
        suberror = self.fd.exit.detail
        rip, instruction = self.fd.get("REGS").rip, self.fd.error_bytes.hex(" ")
        sentence = f"KVM internal error {suberror} on vCPU {self.fd.index} at rip {rip:#x}"
        if instruction:
            sentence += f", instruction {instruction}"
        return Outcome(
            Result.INTERNAL_ERROR,
            sentence,
            {
                "SUBERROR": str(suberror),
                "GUEST_RIP": f"{rip:#x}",
                "INSTRUCTION_BYTES": instruction,
            },
        )


def _where(error: Exception) -> str:
    """A line a frame, innermost last; traceback would open source files under the filter."""
    lines, at = [], error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        lines.append(f"{code.co_filename}:{at.tb_lineno} in {code.co_name}")
        at = at.tb_next
    return "\n".join(lines)
