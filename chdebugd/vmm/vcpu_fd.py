"""KVM's third level: one vCPU, and the C loop that runs it.

Methods mirror ioctls as those of kvm do; what fails raises OSError that names the call.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Iterator
from typing import Any

from chdebugd.vmm._kvm import ffi, lib
from chdebugd.vmm.kvm import Fd, Vm, check


class VcpuFd(Fd):
    """vCPU ioctls and the C run loop."""

    def __init__(self, vm: Vm, index: int) -> None:
        """KVM_CREATE_VCPU with APIC id `index`."""
        super().__init__(vm.ioctl_value("KVM_CREATE_VCPU", index))
        self.vm = vm
        self.index = index
        size = vm.kvm.ioctl_value("KVM_GET_VCPU_MMAP_SIZE")
        self._map = mmap.mmap(self.fd, size)
        self._buffer = ffi.from_buffer(self._map)
        self._c = ffi.new("struct chd_vcpu *")
        self._c.fd, self._c.index = self.fd, index
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
