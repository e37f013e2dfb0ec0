"""KVM's three levels: Kvm (system), Vm and VcpuFd. The only importer of the extension.

A wrapper mirrors its ioctl (KVM api.rst has them by name); what fails raises OSError that names
the call. Kvm.open alone explains, because only there is the cause the user's to mend.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, Self

from chdebugd.errors import KVMUnavailableError
from chdebugd.vmm._kvm import ffi, lib

DEVICE = "/dev/kvm"
XAPIC_CPUS = 255  # beyond, interrupts need remapping, which this machine lacks
EXITED: int = lib.CHD_EXITED
KICKED: int = lib.CHD_KICKED
RING_FULL: int = lib.CHD_RING_FULL
EXIT_FORBIDDEN: int = lib.CHD_EXIT_FORBIDDEN

PIT_NEVER_SET = 0xFF  # mode of a channel after reset, as KVM has it
NEEDED = {
    "KVM_CAP_IRQCHIP": lib.KVM_CAP_IRQCHIP,
    "KVM_CAP_USER_MEMORY": lib.KVM_CAP_USER_MEMORY,
    "KVM_CAP_SET_TSS_ADDR": lib.KVM_CAP_SET_TSS_ADDR,
    "KVM_CAP_EXT_CPUID": lib.KVM_CAP_EXT_CPUID,
    "KVM_CAP_PIT2": lib.KVM_CAP_PIT2,
    "KVM_CAP_MP_STATE": lib.KVM_CAP_MP_STATE,
    "KVM_CAP_READONLY_MEM": lib.KVM_CAP_READONLY_MEM,
    "KVM_CAP_IMMEDIATE_EXIT": lib.KVM_CAP_IMMEDIATE_EXIT,
    "KVM_CAP_IRQ_ROUTING": lib.KVM_CAP_IRQ_ROUTING,
    "KVM_CAP_SIGNAL_MSI": lib.KVM_CAP_SIGNAL_MSI,
    "KVM_CAP_IOEVENTFD_ANY_LENGTH": lib.KVM_CAP_IOEVENTFD_ANY_LENGTH,
}


def check(result: int, call: str) -> int:
    """Pass on what a C call returned; raise OSError naming the call where it is -errno."""
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")
    return result


class _Fd:
    """A descriptor that answers ioctls."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ioctl(self, name: str, argument: Any = None) -> int:
        """The ioctl called `name` with a pointer to `argument`, or with none."""
        pointer = ffi.NULL if argument is None else argument
        return check(lib.chd_ioctl(self.fd, getattr(lib, name), pointer), name)

    def ioctl_value(self, name: str, value: int = 0) -> int:
        """The ioctl called `name` with `value` itself as its argument."""
        return check(lib.chd_ioctl_value(self.fd, getattr(lib, name), value), name)

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Kvm(_Fd):
    """System ioctls on /dev/kvm."""

    @classmethod
    def open(cls, device: str = DEVICE) -> Self:
        """Open the device and check what the machine needs; raises KVMUnavailableError."""
        try:
            kvm = cls(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise KVMUnavailableError(_why_not(device, error)) from None
        with contextlib.ExitStack() as stack:
            stack.callback(kvm.close)
            kvm._check_api(device)
            stack.pop_all()
        return kvm

    def _check_api(self, device: str) -> None:
        try:
            version = self.ioctl_value("KVM_GET_API_VERSION")
        except OSError:
            raise KVMUnavailableError(
                f"{device} is not a KVM device; load the module kvm_intel or kvm_amd"
            ) from None
        if version != lib.KVM_API_VERSION:
            raise KVMUnavailableError(
                f"{device} speaks KVM API {version}, not {lib.KVM_API_VERSION}; use another kernel"
            )
        missing = [name for name, cap in NEEDED.items() if not self.check_extension(cap)]
        if missing:
            raise KVMUnavailableError(
                f"KVM of this kernel lacks {', '.join(missing)}; use a kernel that has them"
            )

    def check_extension(self, capability: int) -> int:
        """What KVM_CHECK_EXTENSION says of `capability`: 0 is no."""
        return self.ioctl_value("KVM_CHECK_EXTENSION", capability)

    @property
    def max_vcpus(self) -> int:
        """The most vCPUs that one VM can have."""
        return min(self.check_extension(lib.KVM_CAP_MAX_VCPUS) or 4, XAPIC_CPUS)

    @property
    def has_tsc_deadline(self) -> bool:
        """Whether KVM's LAPIC timer takes TSC deadlines; KVM does not always say so by CPUID."""
        return bool(self.check_extension(lib.KVM_CAP_TSC_DEADLINE_TIMER))

    def create_vm(self) -> Vm:
        """KVM_CREATE_VM."""
        return Vm(self.ioctl_value("KVM_CREATE_VM"), self)

    def supported_cpuid(self) -> Any:
        """KVM_GET_SUPPORTED_CPUID: a `struct chd_cpuid`."""
        cpuid = ffi.new("struct chd_cpuid *")
        cpuid.n_entries = len(cpuid.entries)
        self.ioctl("KVM_GET_SUPPORTED_CPUID", cpuid)
        return cpuid


def _why_not(device: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV:
            remedy = "load the module kvm_intel or kvm_amd, or enable virtualization in firmware"
        case errno.EACCES | errno.EPERM:
            remedy = "the VM process must be in the group that owns it (usually kvm)"
        case _:
            remedy = "see the kernel's log"
    return f"Cannot open {device}: {error.strerror}; {remedy}"


class Vm(_Fd):
    """VM ioctls: memory, interrupts, the clock."""

    def __init__(self, fd: int, kvm: Kvm) -> None:
        super().__init__(fd)
        self.kvm = kvm
        self._n_slots = 0

    def add_memory(self, gpa: int, size: int, address: int, *, readonly: bool = False) -> None:
        """Map `size` bytes at `address` of this process to `gpa` (KVM_SET_USER_MEMORY_REGION)."""
        region = ffi.new("struct kvm_userspace_memory_region *")
        region.slot = self._n_slots
        region.flags = lib.KVM_MEM_READONLY if readonly else 0
        region.guest_phys_addr, region.memory_size = gpa, size
        region.userspace_addr = address
        self.ioctl("KVM_SET_USER_MEMORY_REGION", region)
        self._n_slots += 1

    def set_special_pages(self, tss: int, identity_map: int) -> None:
        """Three pages and one that Intel hosts need for real mode; call before any vCPU."""
        self.ioctl_value("KVM_SET_TSS_ADDR", tss)
        self.ioctl("KVM_SET_IDENTITY_MAP_ADDR", ffi.new("uint64_t *", identity_map))

    def create_irqchip(self) -> None:
        """PIC, IOAPIC and LAPICs in the kernel, wired as in a PC, and the PIT with port 0x61."""
        self.ioctl_value("KVM_CREATE_IRQCHIP")
        pit = ffi.new("struct kvm_pit_config *")
        pit.flags = lib.KVM_PIT_SPEAKER_DUMMY
        self.ioctl("KVM_CREATE_PIT2", pit)
        check(lib.chd_route_irqs(self.fd), "KVM_SET_GSI_ROUTING")

    @property
    def has_pit_timer(self) -> bool:
        """Whether the guest ever set the timer behind IRQ 0 (KVM_GET_PIT2)."""
        pit = ffi.new("struct kvm_pit_state2 *")
        self.ioctl("KVM_GET_PIT2", pit)
        return bool(pit.channels[0].mode != PIT_NEVER_SET)

    def set_irq(self, gsi: int, level: bool) -> None:
        """KVM_IRQ_LINE: hold the line `gsi` high or low."""
        line = ffi.new("struct kvm_irq_level *")
        line.irq, line.level = gsi, level
        self.ioctl("KVM_IRQ_LINE", line)

    def ioeventfd(self, address: int, fd: int, *, attach: bool) -> None:
        """KVM_IOEVENTFD: a write of any size to guest address `address` writes `fd`, or no more."""
        event = ffi.new("struct kvm_ioeventfd *")
        event.addr, event.fd = address, fd
        event.flags = 0 if attach else lib.KVM_IOEVENTFD_FLAG_DEASSIGN
        self.ioctl("KVM_IOEVENTFD", event)

    def create_vcpu(self, index: int) -> VcpuFd:
        """KVM_CREATE_VCPU with APIC id `index`."""
        return VcpuFd(self.ioctl_value("KVM_CREATE_VCPU", index), self, index)

    def clock(self) -> Any:
        """KVM_GET_CLOCK: what kvmclock reads now."""
        data = ffi.new("struct kvm_clock_data *")
        self.ioctl("KVM_GET_CLOCK", data)
        return data

    def set_clock(self, data: Any) -> None:
        """KVM_SET_CLOCK: go on from `data`, so that a pause takes no guest time."""
        fresh = ffi.new("struct kvm_clock_data *")
        fresh.clock = data.clock
        self.ioctl("KVM_SET_CLOCK", fresh)


class VcpuFd(_Fd):
    """vCPU ioctls and the C run loop."""

    def __init__(self, fd: int, vm: Vm, index: int) -> None:
        super().__init__(fd)
        self.vm = vm
        self.index = index
        size = vm.kvm.ioctl_value("KVM_GET_VCPU_MMAP_SIZE")
        self._map = mmap.mmap(fd, size)
        self._buffer = ffi.from_buffer(self._map)
        self._c = ffi.new("struct chd_vcpu *")
        self._c.fd, self._c.index = fd, index
        self._c.run = ffi.cast("struct kvm_run *", self._buffer)
        self.exit = self._c.exit

    def connect(self, ring: int, wake_sinks: int, wake_signals: int) -> None:
        """Put events into the ring at address `ring`, and wake its readers by these eventfds."""
        self._c.ring = ffi.cast("struct chd_ring *", ring)
        self._c.wake_sinks, self._c.wake_signals = wake_sinks, wake_signals

    def claim(self) -> None:
        """Say that the calling thread runs this vCPU, and name it so; before any kick."""
        lib.chd_vcpu_claim(self._c)

    def confine(self) -> None:
        """Put the calling thread under the filter of filter.h, for good; after `connect`."""
        check(lib.chd_vcpu_confine(self._c), "seccomp")

    def run(self) -> int:
        """Run the guest until EXITED (see `exit`), KICKED or RING_FULL. The GIL is free."""
        return check(lib.chd_vcpu_run(self._c), "KVM_RUN")

    def kick(self) -> None:
        """Make `run` return KICKED, at once or when it is next called; nothing where it ended."""
        check(lib.chd_vcpu_kick(self._c), "tgkill")

    def give_up(self) -> None:
        """After the last `run`: an event that waited on a full ring is counted as dropped."""
        lib.chd_vcpu_give_up(self._c)

    def time_exits(self, count: int, budget_nsec: int) -> list[int] | None:
        """Nanoseconds between exits of writes to port 0x80: one, or as many as the budget lets.

        At most `count`; the budget begins with the first exit. None where the guest left by
        another way: its writes to the port do not come out.
        """
        nsec = ffi.new("uint32_t[]", count)
        noted = lib.chd_vcpu_time_exits(self._c, nsec, count, budget_nsec)
        if noted == -errno.ENXIO:
            return None
        return list(nsec[0 : check(noted, "KVM_RUN")])

    def data(self, offset: int, size: int) -> Any:
        """The bytes of the last exit's access at `offset`, writable."""
        return ffi.buffer(self.exit.data + offset, size)

    @property
    def error_bytes(self) -> bytes:
        """The instruction that KVM could not emulate, where it told."""
        return bytes(self.exit.bytes[0 : self.exit.n_bytes])

    @contextlib.contextmanager
    def changing(self, what: str) -> Iterator[Any]:
        """KVM_GET_x, hand it out, KVM_SET_x; `what` is REGS, SREGS or LAPIC."""
        state = self.get(what)
        yield state
        self.ioctl(f"KVM_SET_{what}", state)

    def get(self, what: str) -> Any:
        """KVM_GET_x as its struct; `what` is REGS, SREGS, LAPIC or MP_STATE."""
        kind = "lapic_state" if what == "LAPIC" else what.lower()
        state = ffi.new(f"struct kvm_{kind} *")
        self.ioctl(f"KVM_GET_{what}", state)
        return state

    @property
    def tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ; 0 where KVM does not know."""
        return max(int(lib.chd_ioctl_value(self.fd, lib.KVM_GET_TSC_KHZ, 0)), 0)

    def tell_paused(self) -> None:
        """KVM_KVMCLOCK_CTRL: a guest that has kvmclock blames no watchdog on the pause."""
        lib.chd_ioctl_value(self.fd, lib.KVM_KVMCLOCK_CTRL, 0)

    def set_cpuid(self, cpuid: Any) -> None:
        """KVM_SET_CPUID2."""
        self.ioctl("KVM_SET_CPUID2", cpuid)

    def set_msrs(self, values: dict[int, int]) -> None:
        """KVM_SET_MSRS; an MSR that this host lacks ends the list, which raises OSError."""
        msrs = ffi.new("struct chd_msrs *")
        msrs.n_entries = len(values)
        for entry, (index, value) in zip(msrs.entries, values.items(), strict=False):
            entry.index, entry.data = index, value
        if self.ioctl("KVM_SET_MSRS", msrs) != len(values):
            raise OSError(errno.EINVAL, "KVM_SET_MSRS: an MSR is not supported")

    def set_fpu(self, fcw: int, mxcsr: int) -> None:
        """KVM_SET_FPU with these control words and empty registers."""
        fpu = ffi.new("struct kvm_fpu *")
        fpu.fcw, fpu.mxcsr = fcw, mxcsr
        self.ioctl("KVM_SET_FPU", fpu)

    @property
    def is_halted(self) -> bool:
        """Whether the vCPU sits in HLT or was never started. Only between runs."""
        state = self.get("MP_STATE").mp_state
        return state in (lib.KVM_MP_STATE_HALTED, lib.KVM_MP_STATE_UNINITIALIZED)

    @property
    def is_started(self) -> bool:
        """Whether the vCPU left its wait for INIT and SIPI. Only between runs."""
        return bool(self.get("MP_STATE").mp_state != lib.KVM_MP_STATE_UNINITIALIZED)

    def close(self) -> None:
        """Unmap and close; the thread must have ended."""
        if self.fd >= 0:
            ffi.release(self._buffer)
            self._map.close()
        super().close()


def address_of(memory: mmap.mmap) -> tuple[int, Callable[[], None]]:
    """Where `memory` lies in this process, and what to call before it is closed."""
    buffer = ffi.from_buffer(memory)
    return int(ffi.cast("uintptr_t", buffer)), lambda: ffi.release(buffer)


def init_signals() -> None:
    """Once a process, before any machine is built: SIGRTMIN interrupts KVM_RUN."""
    check(lib.chd_signals_init(), "sigaction")


def confine_process() -> None:
    """Once a process, before it has threads: it can signal or look into no other one."""
    check(lib.chd_confine_process(), "seccomp")


KVM_FEATURES_LEAF = 0x4000_0001  # Documentation/virt/kvm/x86/cpuid.rst
NOP_IO_DELAY = 1 << lib.KVM_FEATURE_NOP_IO_DELAY
EXIT_IO: int = lib.KVM_EXIT_IO
EXIT_MMIO: int = lib.KVM_EXIT_MMIO
EXIT_HLT: int = lib.KVM_EXIT_HLT
EXIT_SHUTDOWN: int = lib.KVM_EXIT_SHUTDOWN
EXIT_FAIL_ENTRY: int = lib.KVM_EXIT_FAIL_ENTRY
EXIT_INTR: int = lib.KVM_EXIT_INTR
EXIT_INTERNAL_ERROR: int = lib.KVM_EXIT_INTERNAL_ERROR
EXIT_SYSTEM_EVENT: int = lib.KVM_EXIT_SYSTEM_EVENT
