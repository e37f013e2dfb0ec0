"""A scratch guest that writes to port 0x80 and nothing else: what does that cost on this host?

Also whether it comes out at all: KVM on Intel before Linux 4.15 let guests write to the host's
port (d59d51f08801, "KVM: VMX: remove I/O port 0x80 bypass on Intel hosts").
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from chdebugd.vmm import layout
from chdebugd.vmm.kvm import Kvm, address_of
from chdebugd.vmm.vcpu_fd import VcpuFd

EXITS = 300
BUDGET_NSEC = 3_500_000  # for the exits; what is left of 5 ms is for the scratch VM
PAGE = 4096
RESET_VECTOR = 0xFF0  # in the page that ends at 4 GiB (SDM 3A, 10.1.4)
OUT_0X80 = b"\xe6\x80"  # out %al, $0x80
OUT_0X81 = b"\xe6\x81"  # out %al, $0x81
TO_PAGE_START = b"\xe9\x0d\xf0"  # jmp f000:f000


class ExitCost(NamedTuple):
    """What one mark costs a guest, the median, and whether its mark is seen at all."""

    nsec: int
    traps: bool


def scratch_page(out: bytes = OUT_0X80) -> bytes:
    """Writes to 0x80 all along the page and round again; the last one to 0x81 always comes out."""
    writes = out * (RESET_VECTOR // len(out) - 1) + OUT_0X81
    return (writes + TO_PAGE_START).ljust(PAGE, b"\xf4")


@contextmanager
def scratch_vcpu(kvm: Kvm, page: bytes) -> Iterator[VcpuFd]:
    """A vCPU whose guest runs `page`, the last one below 4 GiB, from its reset vector on."""
    with mmap.mmap(-1, PAGE) as memory, kvm.create_vm() as vm:
        memory[:] = page
        address, unpin = address_of(memory)
        vm.set_special_pages(layout.TSS_ADDRESS, layout.IDENTITY_MAP_ADDRESS)
        vm.add_memory(layout.HOLE_END - PAGE, PAGE, address)
        with VcpuFd(vm, 0) as vcpu:
            yield vcpu
        unpin()


def measure_exit_cost(kvm: Kvm, page: bytes | None = None) -> ExitCost:
    """Run the scratch guest, for at most 5 ms where KVM itself is no slower. Raises OSError."""
    with scratch_vcpu(kvm, page or scratch_page()) as vcpu:
        exits = vcpu.time_exits(EXITS, BUDGET_NSEC)
    if exits is None:
        return ExitCost(0, traps=False)
    return ExitCost(sorted(exits)[len(exits) // 2], traps=True)
