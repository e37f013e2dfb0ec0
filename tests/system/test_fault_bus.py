"""The bus stands still, dies, or has a member that never reads: guests and journal go on."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from container.container import EVENT, Container

from chdebugd.object_path import vm_path
from tests.system.conftest import get, wait_for
from tests.system.faults import (
    DAEMON,
    NAMES,
    STANDSTILL,
    Writers,
    assert_answers,
    beside,
    is_up,
    kill,
    monitor,
    pid_of,
    stopped,
)

pytestmark = pytest.mark.kvm
BUS = "dbus.service"
DEAF = """
import socket, time
from dbus_next import BusType, Message
from dbus_next.aio import MessageBus
import asyncio

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    rule = "type='signal',sender='org.chdebugd1'"
    await bus.call(Message(destination="org.freedesktop.DBus", path="/org/freedesktop/DBus",
                           interface="org.freedesktop.DBus", member="AddMatch",
                           signature="s", body=[rule]))
    print(flush=True)
    time.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture
def writers(fault_container: Container) -> Iterator[Writers]:
    with Writers(fault_container) as writers:
        yield writers


def marks_in_journal(container: Container) -> int:
    words = ["journalctl", "-q", "-o", "cat", "--output-fields=SEQ", f"MESSAGE_ID={EVENT}"]
    return len(container.run(*words).stdout.split())


def test_a_bus_that_stands_still_stalls_no_guest(writers: Writers) -> None:
    container = writers.container
    with monitor(container) as signals:
        with stopped(container, BUS):
            before, began = marks_in_journal(container), time.monotonic()
            wait_for(lambda: marks_in_journal(container) > before + 3 * 400)
            time.sleep(max(began + STANDSTILL - time.monotonic(), 0))
        wait_for(lambda: is_up(container))
        writers.wait_for_marks()
        written = writers.close_account()
        wait_for(lambda: signals.heard()["w2"][-1] == written["w2"])
        heard = signals.heard()
    for name in NAMES:
        skipped = int(get(container, name, "SkippedSignals"))
        assert written[name] - heard[name][0] + 1 == len(heard[name]) + skipped


def test_get_events_fills_what_was_not_heard(writers: Writers) -> None:
    container = writers.container
    with stopped(container, BUS):
        time.sleep(1)
    writers.wait_for_marks()
    words = ["call", "org.chdebugd1", vm_path("w0"), "org.chdebugd1.VM", "GetEvents", "tu"]

    answer: dict[str, Any] = json.loads(container.busctl("--json=short", *words, "0", "200").stdout)

    assert [event[0] for event in answer["data"][0]] == list(range(1, 201))


def test_a_member_that_never_reads_stalls_nobody(writers: Writers) -> None:
    container = writers.container
    container.put("/srv/deaf.py", DEAF.encode())
    with beside(container, "exec python3 /srv/deaf.py > /root/deaf"):
        wait_for(lambda: container.run("test", "-s", "/root/deaf", check=False).returncode == 0)
        writers.wait_for_marks(400)
        assert_answers(container)
        writers.close_account()


def test_the_daemon_comes_back_to_a_new_bus(writers: Writers) -> None:
    container = writers.container
    before, old = writers.counts(), pid_of(container, DAEMON)
    kill(container, BUS)

    wait_for(lambda: pid_of(container, DAEMON) not in (0, old) and is_up(container))

    after = writers.counts()
    assert all(after[name] > before[name] for name in NAMES)
    assert all(get(container, name, "State") == "running" for name in NAMES)
    writers.close_account()


def test_the_daemon_stops_while_its_bus_stands_still(writers: Writers) -> None:
    """One that runs, and one that the bus does not let in; neither has to be killed."""
    container = writers.container
    with stopped(container, BUS):
        container.run("systemctl", "stop", DAEMON)
        first = result(container)
        container.run("systemctl", "start", "--no-block", DAEMON)
        wait_for(lambda: pid_of(container, DAEMON) != 0)
        wait_for(lambda: heeds_sigterm(container, pid_of(container, DAEMON)))
        container.run("systemctl", "stop", DAEMON)
        second = result(container)
    container.run("systemctl", "start", DAEMON)

    assert (first, second) == ("success", "success")
    writers.wait_for_marks()
    writers.close_account()


def result(container: Container) -> str:
    """How the unit's last process ended."""
    return container.run("systemctl", "show", "--property=Result", "--value", DAEMON).stdout.strip()


def heeds_sigterm(container: Container, pid: int) -> bool:
    """Whether it has a handler."""
    status = container.get(f"/proc/{pid}/status").decode()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1))
