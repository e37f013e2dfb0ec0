"""What a kernel is handed at its entry, by PVH and by Linux's own 32-bit protocol."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from chdebugd.errors import ChdebugdError, InvalidImageError, InvalidOptionError
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.layout import GIB, HOLE_END, HOLE_START, MIB
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.outcome import Result
from tests.guests import SHUTDOWN_32
from tests.images import bzimage, pvh_elf
from tests.kvm.conftest import Run, image_of

pytestmark = pytest.mark.kvm
RunGuest = Callable[..., Run]
Build = Callable[..., tuple[Machine, threading.Event]]

INITRD = b"initrd!!" * 1000
CMDLINE = "console=none x=1"
RAM, RESERVED = 1, 2

MARK_POINTED = b"\x8a\x00\xe6\x80"  # mov (%eax), %al; out %al, $0x80


def mark_at(load: bytes) -> bytes:
    """Mark the byte at the address that `load` puts into EAX."""
    return load + MARK_POINTED


LINUX = (
    mark_at(b"\x8d\x86\x02\x02\x00\x00")  # lea 0x202(%esi), %eax     HdrS
    + mark_at(b"\x8b\x86\x28\x02\x00\x00")  # mov 0x228(%esi), %eax   the command line
    + mark_at(b"\x8b\x86\x18\x02\x00\x00")  # mov 0x218(%esi), %eax   the initrd
    + mark_at(b"\x8b\x46\x70")  # mov 0x70(%esi), %eax                the RSDP
    + SHUTDOWN_32
)
PVH = (
    mark_at(b"\x8b\xc3")  # mov %ebx, %eax                            start_info's magic
    + mark_at(b"\x8b\x43\x18")  # mov 0x18(%ebx), %eax                the command line
    + mark_at(b"\x8b\x43\x10\x8b\x00")  # mov 0x10(%ebx), %eax; mov (%eax), %eax   the initrd
    + mark_at(b"\x8b\x43\x20")  # mov 0x20(%ebx), %eax                the RSDP
    + SHUTDOWN_32
)


@pytest.fixture
def initrd() -> Iterator[Image]:
    image = image_of(INITRD, "initrd")
    yield image
    os.close(image.fd)


@pytest.mark.parametrize(
    ("kernel", "magic"),
    [(bzimage(LINUX.ljust(600, b"\xf4")), ord("H")), (pvh_elf(PVH), 0x78)],
    ids=["bzImage", "PVH"],
)
@pytest.mark.parametrize("memory", [512 * MIB, 4 * GIB, 6 * GIB])
def test_a_kernel_finds_all_it_was_given(
    run: RunGuest, initrd: Image, kernel: bytes, magic: int, memory: int
) -> None:
    image = image_of(kernel, "kernel")

    result = run(image, memory=memory, boot=BootSource(None, image, initrd, CMDLINE))

    assert result.outcome.result == Result.SHUTDOWN
    assert result.codes == [magic, ord("c"), ord("i"), ord("R")]


def zero_page(machine: Machine) -> bytes:
    return machine.memory.read(0x7000, 4096)


@pytest.mark.parametrize("memory", [64 * MIB, 512 * MIB, 3 * GIB, 4 * GIB, 6 * GIB])
def test_the_memory_map_is_all_ram_there_is(build: Build, memory: int) -> None:
    image = image_of(bzimage(LINUX.ljust(600, b"\xf4")), "kernel")
    machine, _ = build(image, memory=memory, boot=BootSource(None, image))
    page = zero_page(machine)
    count = page[0x1E8]
    ranges = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * at) for at in range(count)]

    ram = [(start, start + size) for start, size, kind in ranges if kind == RAM]
    low_holes = 0x100000 - 0xA0000

    assert sum(end - start for start, end in ram) == memory - low_holes
    assert all(end <= HOLE_START or start >= HOLE_END for start, end in ram)
    assert (0xE0000, 0x20000, RESERVED) in ranges


def test_the_initrd_lies_as_high_as_it_may_and_above_the_kernel(
    build: Build, initrd: Image
) -> None:
    image = image_of(bzimage(LINUX.ljust(600, b"\xf4")), "kernel")
    machine, _ = build(image, memory=512 * MIB, boot=BootSource(None, image, initrd))
    address, size = struct.unpack_from("<II", zero_page(machine), 0x218)

    assert address % 4096 == 0
    assert size == len(INITRD)
    assert 512 * MIB - address < size + 4096
    assert machine.memory.read(address, size) == INITRD


def refused(build: Build, memory: int, boot: BootSource) -> ChdebugdError:
    image = boot.kernel
    assert image is not None
    with pytest.raises(ChdebugdError) as caught:
        build(image, memory=memory, boot=boot)
    return caught.value


@pytest.mark.parametrize("kernel", [bzimage(LINUX.ljust(600, b"\xf4")), pvh_elf(PVH)])
def test_an_initrd_larger_than_memory_is_refused(build: Build, kernel: bytes) -> None:
    large = Image("initrd", "large", os.memfd_create("large"))
    os.truncate(large.fd, 64 * MIB)
    image = image_of(kernel, "kernel")

    error = refused(build, 64 * MIB, BootSource(None, image, large))

    assert isinstance(error, InvalidImageError)
    assert "give the VM more memory" in str(error)
    os.close(large.fd)


def test_a_command_line_longer_than_the_kernel_takes_is_refused(build: Build) -> None:
    image = image_of(bzimage(LINUX.ljust(600, b"\xf4"), cmdline_size=10), "kernel")

    error = refused(build, 64 * MIB, BootSource(None, image, cmdline="x" * 11))

    assert isinstance(error, InvalidOptionError)
    assert "this kernel takes 10" in str(error)
