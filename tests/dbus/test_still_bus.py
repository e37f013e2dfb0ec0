"""The bus stands still while the daemon comes or leaves: whoever stops it need not wait."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import (
    MANAGER,
    TIMEOUT,
    VM,
    Broker,
    Client,
    Daemon,
    file_with,
    story,
    vm_pids,
)
from tests.guests import SLEEP, mark, rom

pytestmark = pytest.mark.dbus
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


def wait_until_it_heeds_signals(daemon: Daemon) -> None:
    """It has a handler for SIGTERM, and goes to the bus next."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status")
    deadline = time.monotonic() + TIMEOUT
    while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) & SIGTERM_BIT:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_daemon_that_no_bus_lets_in_stops_when_told(broker: Broker, daemon: Daemon) -> None:
    @story
    async def is_there(daemon: Daemon, client: Client) -> None:
        assert await client.call(*MANAGER, "ListVMs") == []

    is_there(daemon)
    os.kill(broker.pid, signal.SIGSTOP)

    assert daemon.stop() == 0
    daemon.start()
    wait_until_it_heeds_signals(daemon)
    assert daemon.stop() == 0


def test_a_daemon_that_finds_no_place_before_the_bus_stops_when_told(
    broker: Broker, daemon: Daemon
) -> None:
    """All places for connections that wait are taken, as by clients that come again and again."""

    @story
    async def is_there(daemon: Daemon, client: Client) -> None:
        assert await client.call(*MANAGER, "ListVMs") == []

    is_there(daemon)
    daemon.stop()
    os.kill(broker.pid, signal.SIGSTOP)
    with contextlib.ExitStack() as others:
        take_all_places(broker, others)
        daemon.start()
        wait_until_it_heeds_signals(daemon)
        assert daemon.stop() == 0
        daemon.start()
        wait_until_it_heeds_signals(daemon)
    os.kill(broker.pid, signal.SIGCONT)
    is_there(daemon)


def take_all_places(broker: Broker, others: contextlib.ExitStack) -> None:
    path = broker.address.removeprefix("unix:path=")
    with contextlib.suppress(BlockingIOError):
        while True:
            other = others.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            other.connect(path)


@pytest.mark.kvm
def test_a_daemon_that_waits_for_its_name_stops_when_told(broker: Broker, daemon: Daemon) -> None:
    """The bus falls silent while the daemon waits for a VM process that does not greet it."""

    @story
    async def is_back(daemon: Daemon, client: Client) -> None:
        await client.wait_state("/org/chdebugd1/vm/still", "running")

    pid = start_beside_a_vm_that_stands_still(daemon)
    os.kill(broker.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)

    assert daemon.stop() == 0
    os.kill(broker.pid, signal.SIGCONT)
    daemon.start()
    is_back(daemon)


@pytest.mark.kvm
def test_a_daemon_whose_bus_dies_before_it_has_its_name_waits_for_the_next(
    broker: Broker, daemon: Daemon
) -> None:
    @story
    async def is_back(daemon: Daemon, client: Client) -> None:
        path = "/org/chdebugd1/vm/still"
        await client.wait_state(path, "running")
        await client.call(path, VM, "Reset")
        await client.wait_for(lambda: len(client.events(path)) == 1)

    pid = start_beside_a_vm_that_stands_still(daemon)
    broker.kill()
    os.kill(pid, signal.SIGCONT)
    broker.start()

    is_back(daemon)
    assert daemon.stop() == 0


@story
async def with_a_vm(daemon: Daemon, client: Client) -> None:
    image = file_with(daemon.runtime_dir.parent, rom(mark(1) + SLEEP))
    await client.start_vm("still", firmware=Variant("s", str(image)))


def start_beside_a_vm_that_stands_still(daemon: Daemon) -> int:
    """A daemon that waits for the greeting of a stopped VM process, whose id is returned."""
    with_a_vm(daemon)
    daemon.stop()
    [pid] = vm_pids(daemon.runtime_dir).values()
    os.kill(pid, signal.SIGSTOP)
    daemon.start()
    wait_until_it_waits_for(pid, daemon)
    return pid


def wait_until_it_waits_for(pid: int, daemon: Daemon) -> None:
    """It holds a pidfd of that process, so it is connected to the bus and to the process."""
    deadline = time.monotonic() + TIMEOUT
    while not holds_pidfd(daemon, pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holds_pidfd(daemon: Daemon, pid: int) -> bool:
    assert daemon.process is not None
    for info in Path(f"/proc/{daemon.process.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if f"\nPid:\t{pid}\n" in info.read_text():
                return True
    return False
