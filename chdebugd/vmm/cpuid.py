"""What CPUID tells a vCPU (Intel SDM 2A, CPUID; AMD APM 3, appendix E; KVM's cpuid.rst).

All vCPUs are cores of one package, a thread each, with APIC ids from 0 on. What KVM reports of the
host's own topology would be wrong for a guest.
"""

from __future__ import annotations

from typing import Any

from chdebugd.vmm import kvm
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.vcpu_fd import VcpuFd

TOPOLOGY = 0xB
OTHER_TOPOLOGY = 0x1F  # of dies and modules; a guest that finds none takes the one above
INVARIANT_TSC = 0x8000_0007
HYPERVISOR, FREQUENCIES = 0x4000_0000, 0x4000_0010
HAS_HYPERVISOR, HAS_TSC_DEADLINE = 1 << 31, 1 << 24  # leaf 1, ECX
HAS_SEVERAL = 1 << 28  # leaf 1, EDX
TSC_IS_INVARIANT = 1 << 8
APIC_BUS_KHZ = 1_000_000  # of KVM's LAPIC timer
SMT_LEVEL, CORE_LEVEL = 1, 2  # of leaf 0xB
LAST_LEVEL_CACHE = 3
BY_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX


class Cpuid:
    """The leaves of one machine, given to one vCPU after the other.

    KVM's own leaves stay: without KVM_FEATURE_NOP_IO_DELAY Linux writes its I/O delays to the
    debug port.
    """

    def __init__(self, system: Kvm, n_cpus: int) -> None:
        """Begin with what KVM supports; raises OSError."""
        self._n_cpus = n_cpus
        self._c = system.supported_cpuid()
        self._has_frequencies = False
        _replace_topology(self._c, n_cpus)
        deadline = HAS_TSC_DEADLINE if system.has_tsc_deadline else 0
        for entry in _entries(self._c):
            self._adapt(entry, deadline)

    def _adapt(self, entry: Any, deadline: int) -> None:
        n_cpus = self._n_cpus
        match entry.function:
            case kvm.KVM_FEATURES_LEAF:
                entry.eax |= kvm.NOP_IO_DELAY
            case 0x1:
                entry.ecx |= HAS_HYPERVISOR | deadline
                entry.edx = entry.edx & ~HAS_SEVERAL | (HAS_SEVERAL if n_cpus > 1 else 0)
            case 0x4 if entry.eax:
                _share_cache(entry, n_cpus)
                cores = (1 << _id_bits(n_cpus)) - 1
                entry.eax = entry.eax & 0x03FF_FFFF | min(cores, 63) << 26
            case 0x8000_001D:
                _share_cache(entry, n_cpus)
            case 0x8000_0008:
                entry.ecx = _id_bits(n_cpus) << 12 | min(n_cpus - 1, 0xFF)

    def give_to(self, vcpu: VcpuFd) -> None:
        """Set the leaves of a vCPU that has not run; raises OSError."""
        if not self._has_frequencies and _is_invariant(self._c):
            _tell_frequencies(self._c, vcpu.tsc_khz)
        self._has_frequencies = True
        index = vcpu.index
        for entry in _entries(self._c):
            match entry.function:
                case 0x1:
                    n_ids = min(self._n_cpus, 255)
                    entry.ebx = entry.ebx & 0xFFFF | (index & 0xFF) << 24 | n_ids << 16
                case 0xB:
                    entry.edx = index
                case 0x8000_001E:
                    entry.eax, entry.ebx, entry.ecx = index, index & 0xFF, 0
        vcpu.set_cpuid(self._c)


def _entries(cpuid: Any) -> list[Any]:
    return list(cpuid.entries[0 : cpuid.n_entries])


def _id_bits(n_cpus: int) -> int:
    return (n_cpus - 1).bit_length()


def _share_cache(entry: Any, n_cpus: int) -> None:
    """The last level is everybody's, the others are a core's own; an empty leaf stays so."""
    level = entry.eax >> 5 & 7
    sharers = n_cpus if level == LAST_LEVEL_CACHE else 1
    if entry.eax & 0x1F:
        entry.eax = entry.eax & ~(0xFFF << 14) | min((1 << _id_bits(sharers)) - 1, 0xFFF) << 14


def _replace_topology(cpuid: Any, n_cpus: int) -> None:
    """Leaf 0xB with one thread a core and all cores in the package."""
    kept = [
        _values(entry)
        for entry in _entries(cpuid)
        if entry.function not in (TOPOLOGY, OTHER_TOPOLOGY)
    ]
    if kept[0][3] >= TOPOLOGY:  # EAX of leaf 0: the last basic leaf
        kept += [
            (TOPOLOGY, 0, BY_INDEX, 0, 1, SMT_LEVEL << 8, 0),
            (TOPOLOGY, 1, BY_INDEX, _id_bits(n_cpus), n_cpus, CORE_LEVEL << 8 | 1, 0),
            (TOPOLOGY, 2, BY_INDEX, 0, 0, 2, 0),
        ]
    _put_all(cpuid, kept)


def _is_invariant(cpuid: Any) -> bool:
    return any(
        entry.function == INVARIANT_TSC and entry.edx & TSC_IS_INVARIANT
        for entry in _entries(cpuid)
    )


def _tell_frequencies(cpuid: Any, tsc_khz: int) -> None:
    if not tsc_khz:
        return
    entries = [_values(entry) for entry in _entries(cpuid)]
    _put_all(cpuid, [*entries, (FREQUENCIES, 0, 0, tsc_khz, APIC_BUS_KHZ, 0, 0)])
    for entry in _entries(cpuid):
        if entry.function == HYPERVISOR:
            entry.eax = max(entry.eax, FREQUENCIES)


def _values(entry: Any) -> tuple[int, ...]:
    return (
        entry.function,
        entry.index,
        entry.flags,
        entry.eax,
        entry.ebx,
        entry.ecx,
        entry.edx,
    )


def _put_all(cpuid: Any, entries: list[tuple[int, ...]]) -> None:
    room = len(cpuid.entries)
    cpuid.n_entries = min(len(entries), room)
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    for entry, values in zip(cpuid.entries, entries, strict=False):
        for name, value in zip(names, values, strict=True):
            setattr(entry, name, value)
