"""Several processors: how they start, and whose mark is whose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.outcome import Result
from tests.guests import SHUTDOWN_32
from tests.images import pvh_elf
from tests.kvm.conftest import Run, image_of
from tests.smp import FIRST_CODE, smp_kernel

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("n_cpus", [1, 2, 4, 16, 64, 128])
def test_each_vcpu_makes_its_own_mark(run: Callable[..., Run], n_cpus: int) -> None:
    image = image_of(smp_kernel(n_cpus), "kernel")

    result = run(image, boot=BootSource(kernel=image), cpus=n_cpus)

    assert result.outcome.result == Result.SHUTDOWN
    marks = {event.vcpu: event.code for event in result.events}
    assert marks == {index: FIRST_CODE + index for index in range(n_cpus)}
    assert len(result.events) == n_cpus


def cpuid_mark(leaf: int, subleaf: int, register: bytes) -> bytes:
    """Mark the low byte of EAX, or after `mov %REGISTER, %eax` of another."""
    return (
        b"\xb8"
        + leaf.to_bytes(4, "little")  # mov $leaf, %eax
        + b"\xb9"
        + subleaf.to_bytes(4, "little")  # mov $subleaf, %ecx
        + b"\x0f\xa2"  # cpuid
        + register
        + b"\xe6\x80"  # out %al, $0x80
    )


EBX, ECX_HIGH = b"\x89\xd8", b"\x88\xe8"  # mov %ebx, %eax; mov %ch, %al


@pytest.mark.parametrize(("n_cpus", "id_bits"), [(1, 0), (2, 1), (3, 2), (16, 4)])
def test_all_vcpus_are_cores_of_one_package(
    run: Callable[..., Run], n_cpus: int, id_bits: int
) -> None:
    guest = cpuid_mark(0xB, 0, EBX) + cpuid_mark(0xB, 0, ECX_HIGH)
    guest += cpuid_mark(0xB, 1, b"") + cpuid_mark(0xB, 1, EBX) + cpuid_mark(0xB, 1, ECX_HIGH)
    image = image_of(pvh_elf(guest + SHUTDOWN_32), "kernel")

    result = run(image, boot=BootSource(kernel=image), cpus=n_cpus)

    smt, core = 1, 2
    assert result.codes == [1, smt, id_bits, n_cpus, core]


def test_the_hypervisor_and_its_timer_are_told(run: Callable[..., Run]) -> None:
    ecx_top = b"\xc1\xe9\x18\x89\xc8"  # shr $24, %ecx; mov %ecx, %eax
    image = image_of(pvh_elf(cpuid_mark(1, 0, ecx_top) + SHUTDOWN_32), "kernel")

    (top,) = run(image, boot=BootSource(kernel=image)).codes

    has_hypervisor, has_tsc_deadline = 0x80, 0x01
    assert top & has_hypervisor
    assert top & has_tsc_deadline
