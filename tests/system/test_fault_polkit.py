"""polkit hangs, dies or may not start: who needs it hears so in time, and nobody else waits."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from container.container import MANAGER, Container

from tests.guests import SLEEP, mark
from tests.system.conftest import TIMEOUT, VM, call_vm, get, guest, wait_for, wait_state
from tests.system.faults import assert_answers, kill, pid_of, stopped

pytestmark = pytest.mark.kvm

POLKIT = "polkit.service"
LOOP = "/org/chdebugd1/vm/loop"
CALLS = "/srv/calls.py"
# Calls every member that Introspect says is privileged, all at once, as busctl does: polkit may
# have a dialog. Writes a line once all have been asked about, and another one with what came back.
CALLS_SOURCE = f"""
import asyncio, json
from xml.etree import ElementTree
from dbus_next import BusType, Message, MessageFlag, Variant
from dbus_next.aio import MessageBus

VALUES = {{"s": "mine", "a{{sv}}": {{}}, "t": 0}}
FACES = {{
    "/org/chdebugd1": "org.chdebugd1.Manager",
    "{LOOP}": "{VM}",
}}

def message(path, interface, member, signature="", body=()):
    return Message(destination="org.chdebugd1", path=path, interface=interface, member=member,
                   signature=signature, body=list(body),
                   flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)

async def privileged(bus):
    for path, interface in FACES.items():
        introspect = message(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        tree = ElementTree.fromstring((await bus.call(introspect)).body[0])
        for method in tree.findall(f"interface[@name='{{interface}}']/method"):
            if any(each.get("name").endswith(".Privileged") for each in method.iter("annotation")):
                kinds = [arg.get("type") for arg in method.findall("arg[@direction='in']")]
                body = [VALUES[kind] for kind in kinds]
                yield message(path, interface, method.get("name"), "".join(kinds), body)
    yield message("/org/freedesktop/LogControl1", "org.freedesktop.DBus.Properties", "Set", "ssv",
                  ["org.freedesktop.LogControl1", "LogLevel", Variant("s", "info")])

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    calls = [each async for each in privileged(bus)]
    answers = [asyncio.create_task(bus.call(each)) for each in calls]
    for _ in range(3):  # the bus keeps the order: after its own questions come those for polkit
        await bus.call(message("/", "org.freedesktop.DBus.Peer", "Ping"))
    print(flush=True)
    answers = await asyncio.gather(*answers)
    print(json.dumps([[call.member, answer.error_name, answer.body]
                      for call, answer in zip(calls, answers)]))

asyncio.run(main())
"""
GUARDED = {"StartVM", "Start", "Stop", "Kill", "Pause", "Resume", "Reset", "Remove", "Set"}
ACCESS_DENIED = "org.chdebugd1.Error.AccessDenied"


@pytest.fixture(scope="module")
def host(container: Container) -> Container:
    """With a member of group chdebugd."""
    container.user("member", "chdebugd")
    container.put(CALLS, CALLS_SOURCE.encode())
    return container


@pytest.fixture
def loop(host: Container) -> Iterator[Container]:
    """A VM 'loop' runs, and so does polkit."""
    host.start_vm("loop", guest(host, "loop", mark(0x40) + SLEEP))
    assert pid_of(host, POLKIT) != 0
    yield host
    call_vm(host, "loop", "Remove")


class Calls:
    """All guarded calls of a member at once; `answers` waits for all of theirs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answers(self) -> dict[str, tuple[str, str]]:
        """Names and sentences of the errors, by method."""
        assert self._process.stdout is not None
        answers: list[Any] = json.loads(self._process.stdout.readline())
        return {member: (error, " ".join(map(str, body))) for member, error, body in answers}


@contextlib.contextmanager
def calls_of_a_member(container: Container) -> Iterator[Calls]:
    command = container.command("/usr/bin/python3", CALLS, user="member")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "\n"
            yield Calls(process)
        finally:
            process.kill()


def assert_refused(answers: dict[str, tuple[str, str]], reason: str) -> None:
    assert answers.keys() == GUARDED
    for error, sentence in answers.values():
        assert error == ACCESS_DENIED
        assert sentence.startswith("polkit could not decide: ")
        assert reason in sentence
        assert sentence.endswith("; see systemctl status polkit, or ask as root")


def test_a_polkit_that_hangs_holds_up_nobody_else(loop: Container) -> None:
    with stopped(loop, POLKIT), calls_of_a_member(loop) as calls:
        assert_answers(loop)
        for method, state in (("Pause", "paused"), ("Resume", "running"), ("Reset", "running")):
            call_vm(loop, "loop", method)
            wait_state(loop, "loop", state)
        refused = start(loop, "late")
        answers = calls.answers()
        call_vm(loop, "loop", "Kill")

    assert_refused(answers, "no answer within 20 s")
    assert "systemd did not start chdebugd-vm@late.service" in refused
    assert "systemctl status polkit" in refused
    assert get(loop, "loop", "State") == "stopped"
    wait_for(lambda: '"late"' not in loop.busctl("call", *MANAGER, "ListVMs").stdout)
    assert start(loop, "late") == ""
    call_vm(loop, "late", "Remove")


def test_a_polkit_that_is_killed_amid_questions_is_a_refusal(loop: Container) -> None:
    pid = pid_of(loop, POLKIT)
    loop.run("sh", "-c", f"kill -STOP {pid}")
    with calls_of_a_member(loop) as calls:
        kill(loop, POLKIT)
        answers = calls.answers()
    wait_for(lambda: pid_of(loop, POLKIT) != pid)

    assert_refused(answers, "")
    again = loop.busctl("call", "org.chdebugd1", LOOP, VM, "Pause", user="member")  # a new polkitd
    assert again.returncode == 0
    assert get(loop, "loop", "State") == "paused"


def test_a_polkit_that_may_not_start_is_a_refusal(loop: Container) -> None:
    loop.run("systemctl", "mask", "--runtime", "--now", POLKIT)
    try:
        with calls_of_a_member(loop) as calls:
            answers = calls.answers()
        refused = start(loop, "late")
        call_vm(loop, "loop", "Kill")
    finally:
        loop.run("systemctl", "unmask", "--runtime", POLKIT)
        loop.run("systemctl", "start", POLKIT)

    assert_refused(answers, "masked")
    assert "systemd did not start chdebugd-vm@late.service" in refused
    assert "systemctl status polkit" in refused
    assert get(loop, "loop", "State") == "stopped"


def test_what_is_not_polkits_does_not_name_it(host: Container) -> None:
    host.run("systemctl", "mask", "--runtime", "chdebugd-vm@late.service")
    try:
        refused = start(host, "late")
    finally:
        host.run("systemctl", "unmask", "--runtime", "chdebugd-vm@late.service")

    assert "Unit chdebugd-vm@late.service is masked" in refused
    assert "see journalctl -u chdebugd-vm@late.service\n" in refused
    assert start(host, "late") == ""
    call_vm(host, "late", "Remove")


def start(container: Container, name: str) -> str:
    """StartVM as root; what was wrong, empty where it started."""
    words = [f"--timeout={TIMEOUT}", "call", *MANAGER, "StartVM", "sa{sv}", name, "0"]
    return container.busctl(*words, check=False).stderr
