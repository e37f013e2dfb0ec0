"""The virtual hardware of one boot, in the order it is built.

    Machine ── Vm (KVM) ── GuestMemory
       │         └─ irqchip, PIT
       ├── ports, mmio: Bus ── devices
       └── Vcpu threads ── Gate

A machine runs once. A reset is the next machine, with fresh memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from chdebugd.trace.ring import Ring
from chdebugd.vmm import cpu, layout
from chdebugd.vmm.boot.fw_cfg_items import make_items
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.bus import Bus
from chdebugd.vmm.cpuid import Cpuid
from chdebugd.vmm.devices.debug_port import DebugPort
from chdebugd.vmm.devices.fw_cfg import FwCfg
from chdebugd.vmm.devices.i8042 import I8042
from chdebugd.vmm.devices.pci import PciConfig
from chdebugd.vmm.devices.power import Pm1, PmTimer, Port92, SleepPort
from chdebugd.vmm.devices.rtc import Rtc
from chdebugd.vmm.devices.serial import Serial
from chdebugd.vmm.devices.text_port import Output, TextPort
from chdebugd.vmm.gate import Gate
from chdebugd.vmm.kvm import Kvm, Vm
from chdebugd.vmm.memory import GuestMemory
from chdebugd.vmm.outcome import Outcome, Result
from chdebugd.vmm.vcpu import Vcpu
from chdebugd.vmm.vcpu_fd import VcpuFd

if TYPE_CHECKING:
    from chdebugd.vmm.virtio.block import Disk
    from chdebugd.vmm.virtio.engine import Engine
    from chdebugd.vmm.virtio.net import Tap


class MachineConfig(NamedTuple):
    """What one machine is made of; an output of None is a port that is off."""

    memory: int
    cpus: int
    boot: BootSource
    disks: tuple[Disk, ...] = ()
    taps: tuple[Tap, ...] = ()
    rng: bool = False
    serial: Output | None = None
    debug_console: Output | None = None
    firmware_debug: Output | None = None


class Wakers(NamedTuple):
    """Eventfds that a vCPU writes when a reader of the ring sleeps."""

    sinks: int
    signals: int


class IrqLine:
    """A GSI as a device's wire; KVM is told of changes only."""

    def __init__(self, vm: Vm, gsi: int) -> None:
        self._vm = vm
        self._gsi = gsi
        self._level = False

    def __call__(self, level: bool, /) -> None:
        """Hold the line high or low."""
        if level != self._level:
            self._level = level
            self._vm.set_irq(self._gsi, level)


class Machine:
    """One boot's hardware. `ended` is called once, on a vCPU's thread, when it is over."""

    def __init__(
        self,
        kvm: Kvm,
        config: MachineConfig,
        ring: Ring,
        wakers: Wakers,
        *,
        ended: Callable[[], None],
        phase: Callable[[str], None],
    ) -> None:
        """Build it, paused before its first instruction.

        `phase` is told what is done: kvm-created, memory-mapped, image-loaded. Raises what the
        loaders raise, LimitExceededError, or OSError of a KVM call.
        """
        self.outcome: Outcome | None = None
        self._ended = ended
        self._outcome_lock = threading.Lock()
        self._ring = ring
        self._gate = Gate()
        self._clock: Any = None
        with ExitStack() as stack:
            self.vm = stack.enter_context(kvm.create_vm())
            self.vm.set_special_pages(layout.TSS_ADDRESS, layout.IDENTITY_MAP_ADDRESS)
            phase("kvm-created")
            self.memory = GuestMemory(self.vm, config.memory)
            stack.callback(self.memory.close)
            phase("memory-mapped")
            entry = config.boot.load(self.memory, config.cpus)
            phase("image-loaded")
            # After all memory: KVM frees its old table of devices at leisure, and a memory slot
            # that comes then waits for it, 5 ms on Linux 6.18.
            self.vm.create_irqchip()
            self.ports, self.mmio = Bus(), Bus()
            self._plug_devices(config)
            self._engines = self._plug_virtio(config, stack, wakers.sinks)
            if isinstance(entry, cpu.ResetVector):
                self._plug_fw_cfg(config)
            cpuid = Cpuid(kvm, config.cpus)
            self.vcpus = [
                stack.enter_context(self._create_vcpu(index, cpuid, entry, wakers))
                for index in range(config.cpus)
            ]
            self._resources = stack.pop_all()

    def _create_vcpu(self, index: int, cpuid: Cpuid, entry: cpu.Entry, wakers: Wakers) -> Vcpu:
        fd = VcpuFd(self.vm, index)
        cpuid.give_to(fd)
        cpu.prepare(fd, entry)
        if index == 0 and isinstance(entry, cpu.Flat32):
            cpu.enter_flat32(fd, self.memory, entry)
        fd.connect(self._ring.address, wakers.sinks, wakers.signals)
        return Vcpu(
            fd,
            self.ports,
            self.mmio,
            self._gate,
            room=lambda: self._ring.is_roomy,
            finish=self._finish,
        )

    def _plug_devices(self, config: MachineConfig) -> None:
        self.serial = Serial(IrqLine(self.vm, layout.COM1_GSI), config.serial)
        self.pm1 = Pm1(IrqLine(self.vm, layout.SCI_GSI), self._shutdown)
        self.pci = PciConfig(self._reset)
        ports = self.ports
        keyboard = I8042(IrqLine(self.vm, layout.KEYBOARD_GSI), self._reset)
        ports.insert(keyboard, layout.I8042_PORT, 5)
        ports.insert(Rtc(config.memory, config.cpus), layout.RTC_INDEX, 2)
        ports.insert(DebugPort(lambda: self._ring.last_code), layout.DEBUG_PORT, 1)
        ports.insert(Port92(self._reset), layout.PORT_92, 1)
        ports.insert(self.serial, layout.COM1_PORT, 8)
        ports.insert(SleepPort(self._reset, self._shutdown), layout.SLEEP_PORT, 1)
        ports.insert(PmTimer(), layout.PM_TIMER_PORT, 4)
        ports.insert(self.pm1, layout.PM1_EVENT_PORT, 6)
        ports.insert(self.pci, layout.PCI_ADDRESS_PORT, 8)
        if config.debug_console:
            ports.insert(TextPort(config.debug_console), layout.DEBUG_CONSOLE, 1)
        if config.firmware_debug:
            ports.insert(TextPort(config.firmware_debug), layout.FIRMWARE_DEBUG, 1)

    def _plug_fw_cfg(self, config: MachineConfig) -> None:
        items = FwCfg(lambda: make_items(config.memory, config.cpus))
        self.ports.insert(items, layout.FW_CFG_PORT, 2)

    def _plug_virtio(self, config: MachineConfig, stack: ExitStack, wake_fd: int) -> list[Engine]:
        """Plug disks, taps and the source of entropy into PCI, in this order."""
        if not (config.disks or config.taps or config.rng):
            return []
        # Imported here: most machines have none, and a start without is faster by milliseconds.
        from chdebugd.vmm.virtio.plug import VirtioPlug

        plug = VirtioPlug(self.vm, self.memory, self.mmio, self.pci, stack, wake_fd)
        for disk in config.disks:
            plug.add_disk(disk)
        for tap in config.taps:
            plug.add_tap(tap)
        if config.rng:
            plug.add_entropy()
        return plug.engines

    def _reset(self) -> None:
        self._finish(Outcome(Result.RESET, "The guest reset itself"))

    def _shutdown(self) -> None:
        self._finish(Outcome(Result.SHUTDOWN, "The guest switched itself off"))

    def _finish(self, outcome: Outcome) -> None:
        with self._outcome_lock:
            if self.outcome is not None:
                return
            self.outcome = outcome
        self._gate.end()
        self._ended()

    # Called from the main thread

    def start(self) -> None:
        """Let the guest run; raises LimitExceededError where the host has no threads for it."""
        for vcpu in self.vcpus:
            vcpu.start()
        self._gate.open()

    def pause(self) -> None:
        """Stop all vCPUs between two instructions, all devices, and the guest's clock with them."""
        self._park()
        for engine in self._engines:
            engine.hold()
        if self.outcome is None:
            self._clock = self.vm.clock()

    def resume(self) -> None:
        """Go on after pause; kvmclock takes up where it was."""
        if self._clock is not None:
            self.vm.set_clock(self._clock)
            self._clock = None
            for vcpu in self.vcpus:
                vcpu.fd.tell_paused()
        for engine in self._engines:
            engine.release()
        self._gate.open()

    def _park(self) -> None:
        self._gate.close()
        for vcpu in self.vcpus:
            vcpu.kick()
        self._gate.wait_parked(len(self.vcpus))

    def end(self, result: Result, sentence: str) -> None:
        """Switch off from outside; nothing where the run is over already."""
        self._finish(Outcome(result, sentence))

    def sink_has_read(self) -> None:
        """The ring may have room again."""
        for vcpu in self.vcpus:
            vcpu.sink_has_read()

    @property
    def cpu_nsec(self) -> int:
        """CPU time that all vCPU threads took so far."""
        return sum(vcpu.cpu_nsec for vcpu in self.vcpus)

    @property
    def failures(self) -> dict[str, tuple[int, int]]:
        """By device: how many requests the host failed to serve, and the errno of the last."""
        every = {engine.label: engine.failures for engine in self._engines}
        return {label: failures for label, failures in every.items() if failures[0]}

    def end_if_dead_halted(self) -> bool:
        """End the run where every vCPU is halted with interrupts off. Stops them for a moment.

        Tells whether the guest sleeps until something outside of it, its serial port for one,
        interrupts it: it has set no timer, and has no virtio device that may still be at work.
        """
        self._park()
        if self.outcome is None and all(vcpu.is_dead_halted for vcpu in self.vcpus):
            self.end(Result.HALTED, "The guest halted with interrupts off")
            return False
        sleeps = not self._engines and all(vcpu.sleeps for vcpu in self.vcpus)
        sleeps = sleeps and not self.vm.has_pit_timer
        self._gate.open()
        return sleeps

    def close(self) -> None:
        """End the run, wait for the vCPU threads, and give all back. Twice is fine."""
        self.end(Result.KILLED, "The machine was closed")
        self._resources.close()
