"""The conversation of the daemon and a VM process, over a real socket pair."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chdebugd.control import (
    Channel,
    FileRole,
    StartRequest,
    Status,
    error_message,
    error_of,
)
from chdebugd.errors import ChdebugdError, InvalidImageError


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair = Channel(ours), Channel(theirs)
    yield pair
    for each in pair:
        each.close()


@pytest.mark.parametrize("text", ["", "\x01" * 65535, "ä" * 32767], ids=["short", "odd", "umlauts"])
def test_a_message_comes_whole_with_its_descriptors(
    channels: tuple[Channel, Channel], text: str
) -> None:
    """The longest command line, and it is in there twice."""
    fd = os.memfd_create("passed")
    channels[0].send({"op": "start", "cmdline": text, "keep": {"cmdline": text}}, [fd])
    os.close(fd)

    received = channels[1].receive()

    assert received is not None
    message, fds = received
    assert message["cmdline"] == message["keep"]["cmdline"] == text
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == ["/memfd:passed (deleted)"]
    assert not os.get_inheritable(fds[0])
    os.close(fds[0])


@pytest.mark.parametrize("kind", ["pipe", "nothing"])
def test_a_message_that_is_nowhere_is_the_end(kind: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds = list(os.pipe()) if kind == "pipe" else []
    with ours:
        socket.send_fds(ours, [b"@"], fds)
        channel = Channel(theirs)
        assert channel.receive() is None
        channel.close()
    for fd in fds:
        os.close(fd)


def test_nothing_is_there_yet_and_nothing_comes_any_more(
    channels: tuple[Channel, Channel],
) -> None:
    with pytest.raises(BlockingIOError):
        channels[1].receive()
    channels[0].close()

    assert channels[1].receive() is None


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"a": '])
def test_what_is_no_json_is_the_end(data: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(data)
        channel = Channel(theirs)
        assert channel.receive() is None
        channel.close()


def test_a_reader_that_sleeps_is_an_error_and_no_wait(channels: tuple[Channel, Channel]) -> None:
    def fill() -> None:
        for _ in range(100_000):
            channels[0].send({"status": "x" * 1000})

    with pytest.raises(BlockingIOError):
        fill()


def test_the_other_end_is_known(channels: tuple[Channel, Channel]) -> None:
    assert channels[0].peer() == (os.getpid(), os.getuid())


def test_a_request_travels_unchanged() -> None:
    files = (FileRole("disk", "/d", False, "root"), FileRole("tap", "tap", False, mac="52:54::"))
    request = StartRequest(cpus=3, cmdline="quiet", keep={"owner": 7}, files=files)

    assert StartRequest.from_message(request.to_message()) == request


def test_an_error_keeps_its_name_and_its_sentence() -> None:
    error = error_of(error_message(InvalidImageError("It is empty; give another")))

    assert isinstance(error, InvalidImageError)
    assert str(error) == "It is empty; give another"
    assert error_of({"id": 1}) is None
    assert type(error_of({"error": "OfAnotherVersion", "message": "?"})) is ChdebugdError


def test_a_status_travels_unchanged() -> None:
    status = Status("running", "", "fine", {"serial": "/dev/pts/1"}, 8000)

    assert Status.from_message(status.to_message()) == status


def test_a_status_of_another_version_is_understood() -> None:
    status = Status.from_message({"state": "paused", "mood": "good"})

    assert status == Status("paused")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(Status._fields), JSON) | JSON)
def test_a_status_of_nonsense_is_refused(message: Any) -> None:
    try:
        status = Status.from_message(message)
    except ValueError:
        return
    assert Status.from_message(status.to_message()) == status
