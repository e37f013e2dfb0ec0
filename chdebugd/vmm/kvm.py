"""KVM's upper two levels: Kvm (system) and Vm; vcpu_fd has the third. Both import the extension.

A wrapper mirrors its ioctl (KVM api.rst has them by name); what fails raises OSError that names
the call. Kvm.open alone explains, because only there is the cause the user's to mend.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
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


class Fd:
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


class Kvm(Fd):
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


class Vm(Fd):
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
