"""Messages of the bus as they come: in pieces, with descriptors, too long, or of no known kind."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from chdebugd.dbus_library import Message, MessageType, SignatureTree
from chdebugd.message_reader_dbus import (
    AT_ONCE,
    MESSAGE_LIMIT,
    SIGNATURES_MAX,
    MessageReader,
)

UNKNOWN_KIND = 9


class Line:
    """A reader at one end, the bus at the other."""

    def __init__(self) -> None:
        self.bus, self.ours = socket.socketpair()
        self.ours.setblocking(False)
        self.taken: list[Message] = []
        self.refused: list[Message] = []
        self.reader = MessageReader(self.ours, self.taken.append, self.refused.append)

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds or []))
        self.bus.sendmsg([data], [rights] if fds else [])

    def close(self) -> None:
        self.reader.close()
        self.bus.close()
        self.ours.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def call(member: str = "Ping", signature: str = "", *body: Any, fds: int = 0) -> bytes:
    message = Message(
        path="/a",
        interface="b.c",
        member=member,
        destination=":1.7",
        serial=5,
        signature=signature,
        body=list(body),
        unix_fds=[0] * fds,
    )
    return bytes(message._marshall(negotiate_unix_fd=True))


def test_a_message_in_pieces_is_one_message(line: Line) -> None:
    for byte in call("Say", "su", "x", 7):
        assert line.taken == []
        line.send(bytes([byte]))
        line.reader.read()

    [message] = line.taken
    assert (message.member, message.signature, message.body) == ("Say", "su", ["x", 7])
    assert (message.destination, message.serial, message.path) == (":1.7", 5, "/a")
    assert message.message_type == MessageType.METHOD_CALL


def test_messages_in_one_piece_are_many(line: Line) -> None:
    line.send(call("A") + call("B", "s", "x") + call("C")[:-1])
    line.reader.read()

    assert [message.member for message in line.taken] == ["A", "B"]


def test_descriptors_go_with_the_message_that_counts_them(line: Line) -> None:
    files = [os.memfd_create(name) for name in ("one", "two", "three")]
    line.send(call("None"))
    line.send(call("Two", "hh", 0, 1, fds=2), files[:2])
    line.send(call("One", "h", 0, fds=1), files[2:])
    line.reader.read()
    line.reader.read()
    line.reader.read()

    got = {
        message.member: [os.readlink(f"/proc/self/fd/{fd}") for fd in message.unix_fds]
        for message in line.taken
    }

    assert got == {
        "None": [],
        "Two": ["/memfd:one (deleted)", "/memfd:two (deleted)"],
        "One": ["/memfd:three (deleted)"],
    }
    for fd in [*files, *(fd for message in line.taken for fd in message.unix_fds)]:
        os.close(fd)


@pytest.mark.parametrize("order", [b"l", b"B"])
def test_a_kind_that_nobody_knows_is_passed_over(line: Line, order: bytes) -> None:
    strange = bytearray(call("Strange"))
    strange[1] = UNKNOWN_KIND
    line.send(bytes(strange) + call("Known"))
    line.reader.read()

    assert [message.member for message in line.taken] == ["Known"]


def test_a_header_that_nobody_knows_is_passed_over(line: Line) -> None:
    strange = bytearray(call("Known"))
    at = strange.index(b"\x06\x01s\x00")  # DESTINATION, a variant of a string
    strange[at] = 77
    line.send(bytes(strange))
    line.reader.read()

    [message] = line.taken
    assert (message.member, message.destination) == ("Known", None)


def test_what_comes_after_a_long_message_is_read(line: Line) -> None:
    """Its body is thrown away as it comes; the header is kept to answer it."""
    data = call("Long", "ay", bytes(MESSAGE_LIMIT)) + call("Short")
    for at in range(0, len(data), 10_000):
        line.send(data[at : at + 10_000])
        line.reader.read()

    assert [message.member for message in line.refused] == ["Long"]
    assert [message.member for message in line.taken] == ["Short"]
    assert (line.refused[0].serial, line.refused[0].body) == (5, [])


def test_a_longer_message_is_read_aside(line: Line) -> None:
    async def told() -> None:
        line.send(call("Longer", "ay", bytes(AT_ONCE)) + call("Short"))
        line.reader.read()
        assert [message.member for message in line.taken] == ["Short"]
        await asyncio.wait(line.reader._tasks, timeout=10)

    asyncio.run(told())
    assert line.taken[1].body == [bytes(AT_ONCE)]


def test_the_end_of_the_line_is_told(line: Line) -> None:
    line.send(call("Last"))
    line.bus.shutdown(socket.SHUT_WR)
    line.reader.read()

    with pytest.raises(EOFError):
        line.reader.read()

    assert [message.member for message in line.taken] == ["Last"]


def test_signatures_of_callers_do_not_pile_up(line: Line) -> None:
    for number in range(2 * SIGNATURES_MAX):
        SignatureTree._get(f"{number:012b}".replace("0", "y").replace("1", "u"))
    line.send(call("Next"))
    line.reader.read()

    assert len(line.taken) == 1
    assert len(SignatureTree._cache) < SIGNATURES_MAX
