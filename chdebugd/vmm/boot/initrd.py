"""What both Linux entries share: the command line and the place of the initrd."""

from __future__ import annotations

from chdebugd.errors import InvalidOptionError
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.layout import CMDLINE_ADDRESS, CMDLINE_MAX, HOLE_START
from chdebugd.vmm.memory import PAGE, GuestMemory


def load_cmdline(cmdline: str, memory: GuestMemory, limit: int = CMDLINE_MAX - 1) -> int:
    """Put the command line, at most `limit` bytes, into memory; returns its address."""
    data = cmdline.encode()
    if len(data) > limit:
        raise InvalidOptionError(
            f"Option 'cmdline' has {len(data)} bytes; this kernel takes {limit}"
        )
    if b"\0" in data:
        raise InvalidOptionError("Option 'cmdline' has a NUL character in it; leave it out")
    memory.write(CMDLINE_ADDRESS, data + b"\0")
    return CMDLINE_ADDRESS


def load_initrd(
    image: Image, memory: GuestMemory, *, floor: int, ceiling: int = HOLE_START
) -> tuple[int, int]:
    """Put the initrd as high as it may lie below `ceiling`; returns its address and size.

    `floor` is the first address that the kernel does not use. Raises InvalidImageError.
    """
    size = image.size
    top = min(memory.low_end, ceiling)
    address = (top - size) & ~(PAGE - 1)
    if address < floor:
        raise image.error(
            f"has {size} bytes, and {max(top - floor, 0)} are free; give the VM more memory"
        )
    with memory.view(address, size) as target:
        image.read_into(target, 0)
    return address, size
