"""A network card over a tap that someone opened (virtio 1.2, section 5.1)."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Any, NamedTuple

from chdebugd.errors import InvalidOptionError
from chdebugd.vmm.virtio.device import VirtioDevice

F_MAC, F_STATUS = 1 << 5, 1 << 16
LINK_UP = 1
ETHERNET = 0x020000
HEADER_SIZE = 12  # virtio_net_hdr with num_buffers

# linux/if_tun.h
TUNGETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x8004_54D2, 0x4004_54D0, 0x4004_54D8
IFF_TAP, IFF_VNET_HDR = 0x0002, 0x4000
IFREQ_SIZE, FLAGS_AT = 40, 16


class Tap(NamedTuple):
    """An open tap device, and the MAC address of the guest's end."""

    fd: int
    mac: str
    id: str = "net"


def _ask_header(tap: Tap) -> bool:
    """Whether the tap gives packets with their virtio header; it is set to ours then."""
    request = bytearray(IFREQ_SIZE)
    try:
        fcntl.ioctl(tap.fd, TUNGETIFF, request)
        (flags,) = struct.unpack_from("<H", request, FLAGS_AT)
        if not flags & IFF_TAP:
            raise InvalidOptionError(f"Option 'net': '{tap.id}' is a tun device; give a tap")
        # The guest is offered no checksums and no segmentation, so the tap must do without.
        fcntl.ioctl(tap.fd, TUNSETOFFLOAD, 0)
        if flags & IFF_VNET_HDR:
            fcntl.ioctl(tap.fd, TUNSETVNETHDRSZ, struct.pack("<i", HEADER_SIZE))
    except OSError as error:
        raise InvalidOptionError(
            f"Option 'net': '{tap.id}' is not an attached tap device ({error.strerror}); "
            "attach it with TUNSETIFF first"
        ) from None
    return bool(flags & IFF_VNET_HDR)


def net(tap: Tap) -> VirtioDevice:
    """The device; raises InvalidOptionError where the descriptor is no tap."""
    has_header = _ask_header(tap)
    os.set_blocking(tap.fd, False)

    def prepare(engine: Any) -> None:
        engine.net.fd, engine.net.has_header = tap.fd, has_header

    return VirtioDevice(
        label=tap.id[:15],
        device_id=1,
        class_code=ETHERNET,
        engine_kind="CHD_NET",
        n_queues=2,
        features=F_MAC | F_STATUS,
        config=bytes.fromhex(tap.mac.replace(":", "")) + struct.pack("<H", LINK_UP),
        prepare=prepare,
    )
