"""Terminals of guests: what is typed comes to the serial port, and what it says comes back."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import TIMEOUT, Client, Daemon, file_with, story
from tests.guests import SHUTDOWN, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

ECHO = (
    b"\xba\xfd\x03"  # 1: mov $0x3fd, %dx
    b"\xec"  # in %dx, %al
    b"\xa8\x01"  # test $1, %al
    b"\x74\xf8"  # jz 1b
    b"\xba\xf8\x03"  # mov $0x3f8, %dx
    b"\xec"  # in %dx, %al
    b"\xee"  # out %al, %dx
    b"\xe6\x80"  # out %al, $0x80
    b"\xeb\xef"  # jmp 1b
)


def read_all(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        ready, _, _ = select.select([fd], [], [], TIMEOUT)
        assert ready, f"nothing came after {data!r}"
        data += os.read(fd, size - len(data))
    return data


@story
async def test_a_pty_is_typed_into_and_read_from(daemon: Daemon, client: Client) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(ECHO))
    options = {"firmware": Variant("s", str(guest)), "serial": Variant("s", "pty")}
    path = await client.start_vm("fw0", **options)
    terminals = await client.get(path, "Terminals")
    terminal = os.open(terminals["serial"], os.O_RDWR | os.O_NOCTTY)

    os.write(terminal, b"hello")

    assert await asyncio.to_thread(read_all, terminal, 5) == b"hello"
    os.close(terminal)
    await client.wait_for(lambda: bytes(e[2] for e in client.events(path)) == b"hello")


@story
async def test_a_socket_serves_who_connected_last(daemon: Daemon, client: Client) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(ECHO))
    options = {"firmware": Variant("s", str(guest)), "serial": Variant("s", "socket")}
    path = await client.start_vm("fw0", **options)
    place = (await client.get(path, "Terminals"))["serial"]
    assert Path(place).parent == daemon.runtime_dir / "vm/fw0"
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600

    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.settimeout(TIMEOUT)
        first.connect(place)
        second.connect(place)
        assert await asyncio.to_thread(first.recv, 1) == b""
        second.sendall(b"again")
        assert await asyncio.to_thread(read_all, second.fileno(), 5) == b"again"
    await client.call(path, "org.chdebugd1.VM", "Kill")
    await client.wait_state(path, "stopped")
    await client.wait_for(lambda: not os.path.exists(place))


WAIT_FOR_INPUT = (
    b"\xba\xfd\x03"  # mov $0x3fd, %dx
    b"\xec"  # 1: in %dx, %al
    b"\xa8\x01"  # test $1, %al
    b"\x74\xfb"  # jz 1b
)
FLOOD = (
    b"\xba\xf8\x03"  # mov $0x3f8, %dx
    b"\xb9\x00\x40"  # mov $0x4000, %cx
    b"\xb0\x2e"  # mov $'.', %al
    b"\xee"  # 1: out %al, %dx
    b"\xe2\xfd"  # loop 1b
)


@story
async def test_text_that_nobody_takes_is_counted_and_told(daemon: Daemon, client: Client) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(WAIT_FOR_INPUT + FLOOD + SHUTDOWN))
    options = {"firmware": Variant("s", str(guest)), "serial": Variant("s", "socket")}
    path = await client.start_vm("fw0", **options)
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect((await client.get(path, "Terminals"))["serial"])
        lazy.sendall(b"!")
        await client.wait_state(path, "stopped")

    def told() -> list[dict[str, str]]:
        return daemon.journal.entries(MESSAGE_ID=MessageId.GUEST_TEXT.value)

    await client.wait_for(lambda: bool(told()))
    (entry,) = told()
    assert entry["PORT"] == "serial"
    assert 0 < int(entry["LOST_BYTES"]) < 0x4000
