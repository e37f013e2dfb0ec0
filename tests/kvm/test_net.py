"""The network card over a real tap, with and without the tap's own header."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from chdebugd.errors import InvalidOptionError
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.virtio.net import IFF_TAP, IFF_VNET_HDR, Tap
from tests.guests import SHUTDOWN
from tests.virtio_driver import BUFFERS, QUEUE_STEP, RINGS, WRITE, VirtioDriver

pytestmark = pytest.mark.kvm
Build = Callable[..., tuple[Machine, threading.Event]]

IFF_NO_PI, IFF_UP = 0x1000, 0x1
TUNSETIFF, SIOCSIFFLAGS = 0x4004_54CA, 0x8914
CLONE_NEWNET = 0x4000_0000
RECEIVE, SEND = 0, 1
MAC = "52:54:00:80:00:01"
ETHERTYPE = 0x88B5  # for local experiments (IEEE 802)
EMPTY_HEADER = bytes(12)
FRAME = bytes.fromhex("ffffffffffff525400800001") + struct.pack(">H", ETHERTYPE) + b"hello" * 20


class TapLink:
    """A tap in a network of its own, and a raw socket at the host's end of it."""

    def __init__(self, flags: int) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR)
        request = struct.pack("16sH22x", b"tap%d", flags)
        self._name = fcntl.ioctl(self.fd, TUNSETIFF, request)[:16].rstrip(b"\0").decode()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        flags_request = struct.pack("16sH22x", self._name.encode(), IFF_UP)
        fcntl.ioctl(self.socket, SIOCSIFFLAGS, flags_request)
        self.socket.settimeout(20)

    def listen(self) -> None:
        """Take frames of our kind; the kernel sends others of its own."""
        self.socket.bind((self._name, ETHERTYPE))

    def close(self) -> None:
        self.socket.close()
        os.close(self.fd)


def in_own_network(work: Callable[[], TapLink]) -> TapLink:
    """Run `work` on a thread that left the host's network; raises what it raises."""
    result: list[TapLink | OSError] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            result.append(work())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


@pytest.fixture(params=[0, IFF_VNET_HDR], ids=["plain", "vnet-hdr"])
def link(request: pytest.FixtureRequest) -> Iterator[TapLink]:
    try:
        link = in_own_network(lambda: TapLink(IFF_TAP | IFF_NO_PI | request.param))
    except OSError as error:
        pytest.skip(f"this user may make no tap: {error}")
    link.listen()
    yield link
    link.close()


@pytest.fixture
def driver(build: Build, link: TapLink) -> Iterator[VirtioDriver]:
    machine, _ = build(SHUTDOWN, taps=(Tap(link.fd, MAC),))
    driver = VirtioDriver(machine, 1)
    driver.start(queues=2)
    yield driver
    machine.close()


def test_the_card_has_its_address_and_a_link(driver: VirtioDriver) -> None:
    assert driver.config_read(0, 4) == 0x1041_1AF4
    address = [driver.device_config(at, 1) for at in range(6)]
    assert bytes(address).hex(":") == MAC
    assert driver.device_config(6, 2) == 1


def test_what_the_guest_sends_comes_out_of_the_tap(driver: VirtioDriver, link: TapLink) -> None:
    for number in range(40):
        frame = FRAME + bytes([number])
        length, _ = driver.request([EMPTY_HEADER, frame], [], SEND)
        assert length == 0
        assert link.socket.recv(2048) == frame


def test_what_comes_to_the_tap_waits_until_the_guest_has_room(
    driver: VirtioDriver, link: TapLink
) -> None:
    frames = [FRAME + bytes([number]) for number in range(4)]
    for frame in frames:
        link.socket.send(frame)
    got: list[bytes] = []
    while len(got) < len(frames):
        length, (data,) = driver.request([], [2048], RECEIVE)
        assert data[:10] == bytes(10)
        if data[24:26] == struct.pack(">H", ETHERTYPE):
            got.append(data[12:length])

    assert got == frames


def test_a_frame_larger_than_its_buffer_is_dropped(driver: VirtioDriver, link: TapLink) -> None:
    link.socket.send(FRAME * 5)
    while True:
        length, (data,) = driver.request([], [200], RECEIVE)
        if length == 0:
            break
        assert data[24:26] != struct.pack(">H", ETHERTYPE)


def test_a_buffer_without_room_for_the_header_stops_the_device(
    driver: VirtioDriver, link: TapLink
) -> None:
    driver.describe(RECEIVE, 0, BUFFERS, 11, WRITE, 0)
    link.socket.send(FRAME)
    driver.offer(0, RECEIVE)

    driver.wait_broken()


def test_a_frame_without_a_header_stops_the_device(driver: VirtioDriver) -> None:
    driver.describe(SEND, 0, BUFFERS, 11, 0, 0)
    driver.offer(0, SEND)

    driver.wait_broken()


def test_frames_of_any_size_from_the_guest_end_nothing(driver: VirtioDriver) -> None:
    for size in (12, 13, 25, 26, 2000, 65536, 1 << 20):
        driver.machine.memory.write(BUFFERS, bytes(12))
        driver.describe(SEND, 0, BUFFERS, size, 0, 0)
        driver.offer(0, SEND)
        assert driver.collect(SEND) == (0, 0)
    assert driver.machine.memory.read(RINGS + SEND * QUEUE_STEP, 8) != bytes(8)


def test_a_descriptor_that_is_no_tap_is_refused(build: Build) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(InvalidOptionError, match="not an attached tap"):
        build(SHUTDOWN, taps=(Tap(fd, MAC, "net0"),))
    os.close(fd)


def test_a_tap_that_is_not_attached_is_refused(build: Build) -> None:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"this host has no tap devices: {error}")
    with pytest.raises(InvalidOptionError, match="TUNSETIFF"):
        build(SHUTDOWN, taps=(Tap(fd, MAC, "net0"),))
    os.close(fd)
