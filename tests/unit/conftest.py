"""The two ends of a sink: a ring with a boot in it, and the socket where journald would read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chdebugd.trace.ring import Ring


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring.create()
    ring.start_boot(0, 0)
    yield ring
    ring.close()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """Its socket; the queue behind it is as short as the kernel's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(tmp_path / "socket"))
        yield listener
