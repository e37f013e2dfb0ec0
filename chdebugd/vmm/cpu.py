"""The state in which a vCPU meets its first instruction."""

from __future__ import annotations

from typing import Any, NamedTuple

from chdebugd.vmm.layout import GDT_ADDRESS, IDT_ADDRESS
from chdebugd.vmm.memory import GuestMemory
from chdebugd.vmm.vcpu_fd import VcpuFd

MSR_MISC_ENABLE = 0x1A0
MISC_ENABLE_FAST_STRING = 1
MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLED_WRITE_BACK = 0x806  # Intel SDM 3A, 12.11.2.1
LVT_LINT0, LVT_LINT1 = 0x350, 0x360  # offsets in the LAPIC's page
LVT_TIMER, TIMER_INITIAL_COUNT = 0x320, 0x380
TIMER_TSC_DEADLINE = 2 << 17
DELIVERY_NMI, DELIVERY_EXTINT = 4 << 8, 7 << 8
DELIVERY_MASK, LVT_MASKED = 7 << 8, 1 << 16
CR0_PE = 1
RFLAGS_FIXED = 2
RFLAGS_IF = 1 << 9
FPU_CONTROL, MXCSR = 0x37F, 0x1F80  # what FNINIT and reset leave (SDM 1, 8.1.5 and 10.2.3)

# Type and flags of the flat 32-bit entry's segments (SDM 3A, 3.4.5).
CODE, DATA, BUSY_TSS = 0xC09B, 0xC093, 0x008B


class ResetVector(NamedTuple):
    """As a processor leaves reset: real mode at 0xfffffff0."""


class Flat32(NamedTuple):
    """32-bit protected mode, no paging: PVH's and Linux's 32-bit entry (boot.rst)."""

    eip: int
    ebx: int = 0
    esi: int = 0
    esp: int = 0


Entry = ResetVector | Flat32


def prepare(vcpu: VcpuFd, entry: Entry) -> None:
    """Set up what is the same for all vCPUs; of a direct boot also the MSRs firmware would set."""
    _set_lint(vcpu)
    vcpu.set_fpu(FPU_CONTROL, MXCSR)
    if isinstance(entry, Flat32):
        vcpu.set_msrs(
            {
                MSR_MISC_ENABLE: MISC_ENABLE_FAST_STRING,
                MSR_MTRR_DEF_TYPE: MTRR_ENABLED_WRITE_BACK,
            }
        )


def enter_flat32(vcpu: VcpuFd, memory: GuestMemory, entry: Flat32) -> None:
    """Set vCPU 0's registers for `entry` and put the GDT they name into memory."""
    table = (0, _descriptor(CODE), _descriptor(DATA), _descriptor(BUSY_TSS, limit=0x67))
    memory.write(GDT_ADDRESS, b"".join(item.to_bytes(8, "little") for item in table))
    memory.write(IDT_ADDRESS, bytes(8))
    with vcpu.changing("SREGS") as sregs:
        _segment(sregs.cs, 1, CODE)
        for name in ("ds", "es", "fs", "gs", "ss"):
            _segment(getattr(sregs, name), 2, DATA)
        _segment(sregs.tr, 3, BUSY_TSS, limit=0x67)
        sregs.gdt.base, sregs.gdt.limit = GDT_ADDRESS, 8 * len(table) - 1
        sregs.idt.base, sregs.idt.limit = IDT_ADDRESS, 7
        sregs.cr0, sregs.cr4 = CR0_PE | sregs.cr0 & 0x10, 0
    with vcpu.changing("REGS") as regs:
        regs.rax = regs.rcx = regs.rdx = regs.rdi = regs.rbp = 0
        regs.rip, regs.rbx, regs.rsi, regs.rsp = entry.eip, entry.ebx, entry.esi, entry.esp
        regs.rflags = RFLAGS_FIXED


def _descriptor(flags: int, limit: int = 0xFFFFF) -> int:
    return (limit & 0xFFFF) | (flags & 0xF0FF) << 40 | (limit >> 16) << 48


def _segment(segment: Any, index: int, flags: int, limit: int = 0xFFFF_FFFF) -> None:
    segment.base, segment.limit, segment.selector = 0, limit, 8 * index
    segment.type, segment.s = flags & 0xF, flags >> 4 & 1
    segment.dpl, segment.present = flags >> 5 & 3, flags >> 7 & 1
    segment.avl, segment.l = flags >> 12 & 1, flags >> 13 & 1
    segment.db, segment.g = flags >> 14 & 1, flags >> 15 & 1
    segment.unusable = 0


def has_lapic_timer(vcpu: VcpuFd) -> bool:
    """Whether the LAPIC's timer may interrupt the vCPU (SDM 3A, 11.5.4). Only between runs.

    A one-shot that is over, and a TSC deadline that is none, count as set.
    """
    regs = vcpu.get("LAPIC").regs
    timer = _register(regs, LVT_TIMER)
    is_set = timer & TIMER_TSC_DEADLINE or _register(regs, TIMER_INITIAL_COUNT)
    return bool(is_set) and not timer & LVT_MASKED


def _register(regs: Any, offset: int) -> int:
    return int.from_bytes(b"".join(regs[offset : offset + 4]), "little")


def _set_lint(vcpu: VcpuFd) -> None:
    """LINT0 takes the PIC's interrupts, LINT1 is NMI, as firmware leaves them (MP spec 3.6.2)."""
    with vcpu.changing("LAPIC") as lapic:
        for offset, mode in ((LVT_LINT0, DELIVERY_EXTINT), (LVT_LINT1, DELIVERY_NMI)):
            value = _register(lapic.regs, offset) & ~(DELIVERY_MASK | LVT_MASKED) | mode
            for at, byte in enumerate(value.to_bytes(4, "little")):
                lapic.regs[offset + at] = bytes([byte])
