"""An image that someone handed over: a kernel, an initrd, a firmware. All of it is untrusted."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from chdebugd.errors import InvalidImageError

TRUNCATED = "is truncated; give the whole file"


class Image(NamedTuple):
    """An open regular file; `role` and `name` are for messages."""

    role: str
    name: str
    fd: int

    @property
    def size(self) -> int:
        """Bytes; raises InvalidImageError where the file is empty or none."""
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode):
            raise self.error("is not a regular file; give an image file")
        if info.st_size == 0:
            raise self.error("is empty; give an image file")
        return info.st_size

    def error(self, what: str) -> InvalidImageError:
        """An error about this image: `Firmware '/x' is empty; give an image file`."""
        return InvalidImageError(f"{self.role.capitalize()} '{self.name}' {what}")

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; raises InvalidImageError where the file ends before."""
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` from `offset` on; raises InvalidImageError where the file ends before."""
        if offset + len(target) > self.size:
            raise self.error(TRUNCATED)
        done = 0
        while done < len(target):
            try:
                n = os.preadv(self.fd, [target[done:]], offset + done)
            except OSError as error:
                raise self.error(f"cannot be read: {error.strerror}") from None
            if n == 0:
                raise self.error(TRUNCATED)
            done += n
