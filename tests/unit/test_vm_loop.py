"""The VM process's event loop: what is ready, or due, at the same time."""

from __future__ import annotations

import socket
from functools import partial

from chdebugd.vm_loop import VmLoop


def test_what_a_callback_removes_is_not_called_although_it_was_ready() -> None:
    """A VM that ends hangs up on a daemon whose last message has just come, too."""
    loop, called = VmLoop(), []
    pairs = [socket.socketpair() for _ in range(2)]
    one, other = (mine for mine, _ in pairs)

    def call(mine: socket.socket, removed: socket.socket) -> None:
        called.append(mine)
        loop.remove(removed)
        removed.close()
        loop.stop()

    loop.add_reader(one, partial(call, one, other))
    loop.add_reader(other, partial(call, other, one))
    for _, peer in pairs:
        peer.send(b"x")

    loop.run()

    assert len(called) == 1
    for mine, peer in pairs:
        mine.close()
        peer.close()


def test_what_a_deadline_puts_off_or_cancels_is_not_called() -> None:
    loop, called = VmLoop(), []

    def first() -> None:
        called.append("first")
        loop.call_later("put off", 3600, lambda: called.append("put off"))
        loop.cancel("cancelled")
        loop.stop()

    loop.call_later("first", 0, first)
    for name in ("put off", "cancelled"):
        loop.call_later(name, 0, partial(called.append, name))

    loop.run()

    assert called == ["first"]
