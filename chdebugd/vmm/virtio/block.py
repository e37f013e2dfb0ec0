"""A disk: a raw image as a virtio block device (virtio 1.2, section 5.2)."""

from __future__ import annotations

import os
import stat
import struct
from typing import Any, NamedTuple

from chdebugd.errors import InvalidImageError
from chdebugd.vmm.virtio.device import VirtioDevice

SECTOR = 512  # bytes; the unit of every number of the protocol
F_SIZE_MAX, F_SEG_MAX, F_RO, F_BLK_SIZE = 1 << 1, 1 << 2, 1 << 5, 1 << 6
F_FLUSH, F_DISCARD, F_WRITE_ZEROES = 1 << 9, 1 << 13, 1 << 14
SIZE_MAX = 256 * 1024  # bytes a segment
SEG_MAX = 126  # with header and status half a queue, so that two requests always fit
CLEAR_MAX = 32768  # sectors a discard or write-zeroes
MASS_STORAGE = 0x018000


class Disk(NamedTuple):
    """An open image. `id` is what the guest finds as the serial number, at most 20 bytes."""

    fd: int
    name: str
    id: str = ""
    readonly: bool = False

    @property
    def sectors(self) -> int:
        """Its capacity; raises InvalidImageError for what is no image."""
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode):
            raise InvalidImageError(f"Disk '{self.name}' is not a regular file; give a raw image")
        if info.st_size < SECTOR:
            raise InvalidImageError(
                f"Disk '{self.name}' has {info.st_size} bytes; a disk image has {SECTOR} or more"
            )
        return info.st_size // SECTOR


def block(disk: Disk) -> VirtioDevice:
    """The device; raises InvalidImageError."""
    sectors = disk.sectors
    features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH
    features |= F_RO if disk.readonly else F_DISCARD | F_WRITE_ZEROES
    config = struct.pack("<QII4xI", sectors, SIZE_MAX, SEG_MAX, SECTOR).ljust(36, b"\0")
    # Discard: sectors, segments, alignment; write-zeroes: sectors, segments, may unmap.
    config += struct.pack("<IIIIIB3x", CLEAR_MAX, 1, 1, CLEAR_MAX, 1, 1)

    def prepare(engine: Any) -> None:
        engine.block.fd, engine.block.readonly = disk.fd, disk.readonly
        engine.block.sectors = sectors
        for at, byte in enumerate(disk.id.encode()[:20]):
            engine.block.id[at] = bytes([byte])

    return VirtioDevice(
        label=f"disk-{disk.id}"[:15],
        device_id=2,
        class_code=MASS_STORAGE,
        engine_kind="CHD_BLOCK",
        n_queues=1,
        features=features,
        config=config,
        prepare=prepare,
    )
