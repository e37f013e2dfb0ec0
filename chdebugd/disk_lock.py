"""Whose a disk image is: its open file's, which a VM process and the daemon share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from chdebugd.control import FileRole
from chdebugd.errors import InvalidImageError


def lock_image(role: FileRole, fd: int) -> None:
    """Let nobody write an image that another VM reads or writes (fcntl(2), OFD locks).

    The daemon holds the same open file, and the lock with it; raises InvalidImageError.
    """
    try:
        _set_lock(fd, fcntl.F_RDLCK if role.readonly else fcntl.F_WRLCK)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return  # a file system without locks
        raise InvalidImageError(
            f"Disk '{role.name}' is in use, by another VM or tool; stop that, or give a copy"
        ) from None


def unlock_image(fd: int) -> None:
    """Let others have the image, whoever else holds this open file."""
    with contextlib.suppress(OSError):
        _set_lock(fd, fcntl.F_UNLCK)


def _set_lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
