"""Attaches to a tap device, so that only its descriptor goes to the daemon."""

from __future__ import annotations

import fcntl
import os
import struct

from chdebugd.ctl.errors import CtlError, UsageError

TUN = "/dev/net/tun"
# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
IFNAMSIZ = 16


def open_tap(name: str) -> int:
    """A descriptor of the tap device `name` (networking/tuntap.rst); raises CtlError."""
    if not 0 < len(name.encode()) < IFNAMSIZ:
        raise UsageError(f"'{name}' is not a network device; a name has 1 to {IFNAMSIZ - 1} bytes")
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise CtlError(
            f"Cannot open {TUN}: {error.strerror}; modprobe tun, or ask as root"
        ) from None
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        request = struct.pack("16sH22x", name.encode(), flags)  # struct ifreq
        fcntl.ioctl(fd, TUNSETIFF, request)
    except OSError as error:
        os.close(fd)
        raise CtlError(
            f"Cannot use tap '{name}': {error.strerror}; make it yours: "
            f"ip tuntap add {name} mode tap user $USER"
        ) from None
    return fd
