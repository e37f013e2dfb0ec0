"""Who may do what: a stranger, a member of group chdebugd, root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.container import MANAGER, Container

from tests.guests import SLEEP, mark
from tests.system.conftest import VM, get, guest, wait_for, wait_state

pytestmark = pytest.mark.kvm

HAND_OVER = Path(__file__).with_name("hand_over.py")
LOOP = "/org/chdebugd1/vm/loop"
REFUSED = "may not do org.chdebugd1."


@pytest.fixture(scope="module")
def host(container: Container) -> Iterator[Container]:
    """With a VM 'loop' that runs on, a stranger, and a member of group chdebugd."""
    container.user("stranger")
    container.user("member", "chdebugd")
    container.start_vm("loop", guest(container, "loop", mark(0x40) + SLEEP))
    yield container
    assert get(container, "loop", "State") == "running"


def call(container: Container, user: str, *words: str) -> subprocess.CompletedProcess[str]:
    return container.busctl("call", "org.chdebugd1", *words, user=user, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ["/org/chdebugd1", MANAGER[2], "StartVM", "sa{sv}", "mine", "0"],
        [LOOP, VM, "Start"],
        [LOOP, VM, "Stop", "t", "0"],
        [LOOP, VM, "Kill"],
        [LOOP, VM, "Pause"],
        [LOOP, VM, "Resume"],
        [LOOP, VM, "Reset"],
        [LOOP, VM, "Remove"],
        [
            "/org/freedesktop/LogControl1",
            "org.freedesktop.DBus.Properties",
            "Set",
            "ssv",
            "org.freedesktop.LogControl1",
            "LogLevel",
            "s",
            "debug",
        ],
    ],
    ids=lambda words: words[2],
)
def test_a_stranger_may_change_nothing(host: Container, words: list[str]) -> None:
    answer = call(host, "stranger", *words)

    assert answer.returncode != 0
    assert REFUSED in answer.stderr
    assert "join the group chdebugd, or ask as root" in answer.stderr


def test_a_stranger_may_not_stop_the_unit_either(host: Container) -> None:
    answer = host.run("systemctl", "stop", "chdebugd-vm@loop", user="stranger", check=False)

    assert answer.returncode != 0
    assert "authentication required" in answer.stderr.lower()


def test_a_stranger_may_read(host: Container) -> None:
    listed = call(host, "stranger", "/org/chdebugd1", MANAGER[2], "ListVMs")
    words = ["get-property", "org.chdebugd1", LOOP, VM, "State"]
    state = host.busctl(*words, user="stranger")
    events = call(host, "stranger", LOOP, VM, "GetEvents", "tu", "0", "10")

    assert '"loop" "running"' in listed.stdout
    assert state.stdout == 's "running"\n'
    assert events.stdout.startswith("a(ttysa{sv}) 1 1 ")


def test_a_stranger_may_hear_signals(host: Container) -> None:
    rule = "type='signal',interface='org.chdebugd1.VM',member='DebugEvent'"
    command = host.command("dbus-monitor", "--system", rule, user="stranger")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as monitor:
        assert monitor.stdout is not None
        next(line for line in monitor.stdout if "NameAcquired" in line)
        host.start_vm("heard")
        heard = next(line for line in monitor.stdout if "DebugEvent" in line)
        monitor.kill()

    assert "path=/org/chdebugd1/vm/heard" in heard


def test_a_member_may_start_and_control(host: Container) -> None:
    host.start_vm("theirs", user="member")
    wait_state(host, "theirs", "stopped")
    again = call(host, "member", "/org/chdebugd1/vm/theirs", VM, "Start")
    wait_for(lambda: get(host, "theirs", "BootCount") == "2")
    wait_state(host, "theirs", "stopped")
    removed = call(host, "member", "/org/chdebugd1/vm/theirs", VM, "Remove")

    assert again.returncode == 0
    assert removed.returncode == 0


def test_a_members_path_is_refused_with_the_way_out(host: Container) -> None:
    """The daemon would open what the caller could not."""
    words = ["StartVM", "sa{sv}", "path", "1", "firmware", "s", "/srv/loop.rom"]
    answer = call(host, "member", "/org/chdebugd1", MANAGER[2], *words)

    assert answer.returncode != 0
    assert "hand over an open descriptor (type h) instead of a path" in answer.stderr
    assert "path" not in host.busctl("call", *MANAGER, "ListVMs").stdout.split('"')


def test_a_members_descriptors_are_taken(host: Container) -> None:
    host.put("/srv/private.rom", host.get("/srv/loop.rom"), mode=0o600)
    host.run("chown", "member", "/srv/private.rom")
    arguments = ["handed", "/srv/private.rom", "/tmp/handed.log"]
    host.run("/usr/bin/python3", "-", *arguments, user="member", stdin=HAND_OVER.read_text())

    wait_for(lambda: host.get("/tmp/handed.log").count(b"\n") == 1)
    assert b"[Debug I/O port: Kernel code 0x40]" in host.get("/tmp/handed.log")
    call(host, "member", "/org/chdebugd1/vm/handed", VM, "Kill")


def test_nobody_else_may_own_the_name(host: Container) -> None:
    host.run("systemctl", "stop", "chdebugd")
    script = (
        "import asyncio; from dbus_next import BusType; from dbus_next.aio import MessageBus\n"
        "async def own():\n"
        "    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()\n"
        "    await bus.request_name('org.chdebugd1')\n"
        "asyncio.run(own())\n"
    )
    thief = host.run("/usr/bin/python3", "-c", script, user="member", check=False)
    host.run("systemctl", "start", "chdebugd")

    assert "not allowed to own the service" in thief.stderr
