"""Three guests that write marks through a fault, and the account that must close after it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Self

from container.container import EVENT, Container

from chdebugd.object_path import vm_path
from tests.guests import metronome, rom
from tests.system.conftest import get, wait_for

HERTZ = 200
NAMES = ("w0", "w1", "w2")
WRITER = "/srv/metronome.rom"
VM_PATH = "/org/chdebugd1/vm/"
DAEMON = "chdebugd.service"
JOURNALD = "systemd-journald.service"
STANDSTILL = 10  # seconds
CLIENT = "/srv/client.py"
# Asks as often as it is told, or until its input ends.
CLIENT_SOURCE = """
import asyncio, json, select, sys, time
from dbus_next import BusType, Message
from dbus_next.aio import MessageBus

def goes_on(asked):
    if len(sys.argv) > 1:
        return asked < int(sys.argv[1])
    return not select.select([sys.stdin], [], [], 0)[0]

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    times = []
    while goes_on(len(times)):
        began = time.monotonic()
        await bus.call(Message(destination="org.chdebugd1", path="/org/chdebugd1",
                               interface="org.chdebugd1.Manager", member="ListVMs"))
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.02)
    print(json.dumps(times))

asyncio.run(main())
"""
MANAGER = ("org.chdebugd1", "/org/chdebugd1", "org.chdebugd1.Manager")


def pass_a_moment() -> None:
    """`make faults` strikes at random; CI where the fault finds most to break, at once."""
    if "CHDEBUGD_FAULTS" in os.environ:
        time.sleep(random.random())


def unit_of(name: str) -> str:
    return f"chdebugd-vm@{name}.service"


def pid_of(container: Container, unit: str) -> int:
    """The main process inside the container's pid namespace, 0 where there is none."""
    done = container.run("systemctl", "show", "--property=MainPID", "--value", unit)
    return int(done.stdout)


def kill(container: Container, unit: str, number: str = "KILL") -> None:
    """Send a signal to a unit's main process."""
    container.run("systemctl", "kill", "--kill-whom=main", f"--signal={number}", unit)


@contextlib.contextmanager
def stopped(container: Container, unit: str) -> Iterator[None]:
    """The unit's main process stands still."""
    pid = pid_of(container, unit)
    container.run("sh", "-c", f"kill -STOP {pid}")
    try:
        yield
    finally:
        container.run("sh", "-c", f"kill -CONT {pid}")


@contextlib.contextmanager
def drop_in(container: Container, unit: str, *lines: str) -> Iterator[None]:
    """Other settings for what starts of a unit meanwhile."""
    directory = f"/run/systemd/system/{unit}.d"
    container.put(f"{directory}/fault.conf", "\n".join(["[Service]", *lines, ""]).encode())
    container.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        container.run("rm", "-r", directory)
        container.run("systemctl", "daemon-reload")


def is_up(container: Container) -> bool:
    """Whether the daemon answers on the bus."""
    return container.busctl("get-property", *MANAGER, "Version", check=False).returncode == 0


def list_vms(container: Container) -> dict[str, str]:
    """Names and states."""
    words = container.busctl("--json=short", "call", *MANAGER, "ListVMs").stdout
    return {name: state for name, state, _ in json.loads(words)["data"][0]}


class Writers:
    """Guests of our own in a container. What each wrote is checked against its whole journal."""

    def __init__(self, container: Container, *options: tuple[str, ...]) -> None:
        """Start them all; `options` are StartVM's, for each."""
        self.container = container
        self._clear()
        container.put(WRITER, rom(metronome(HERTZ)))
        for name in NAMES:
            container.start_vm(
                name, ("firmware", "s", WRITER), ("log-file", "s", f"{name}.log"), *options
            )
        self.wait_for_marks(HERTZ // 10)

    def counts(self) -> dict[str, int]:
        """EventCount by name."""
        return {name: int(get(self.container, name, "EventCount")) for name in NAMES}

    def wait_for_marks(self, more: int = HERTZ // 4, *names: str) -> None:
        """Until each guest wrote so many more, which is in the journal then or soon after."""
        before = self.counts()
        for name in names or NAMES:
            wait_for(
                lambda name=name: (  # type: ignore[misc]
                    int(get(self.container, name, "EventCount")) >= before[name] + more
                )
            )

    def end(self) -> dict[str, int]:
        """Kill them all, wait until their sinks are empty, and say how much each wrote."""
        for name in NAMES:
            self.container.busctl(
                "call", "org.chdebugd1", vm_path(name), "org.chdebugd1.VM", "Kill"
            )
            wait_for(lambda name=name: pid_of(self.container, unit_of(name)) == 0)  # type: ignore[misc]
        return self.counts()

    def close_account(self, *, log: bool = True) -> dict[str, int]:
        """End them; no mark may lack or be there twice, in the journal and in the log file."""
        written = self.end()
        for name in NAMES:
            assert_account(self.container, name, written[name])
            if log:
                assert_log(self.container, name, written[name])
        return written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the container as it was, for the next test."""
        self._clear()

    def _clear(self) -> None:
        for name in list_vms(self.container):
            self.container.busctl(
                "call", "org.chdebugd1", vm_path(name), "org.chdebugd1.VM", "Remove"
            )
        self.container.run("sh", "-c", "rm -rf /var/log/chdebugd/* /root/signals")


def journalled(container: Container, name: str) -> list[tuple[int, int]]:
    """SEQ and CODE of all marks of a VM's boot, in the order of the whole journal."""
    boot = get(container, name, "BootID")
    marks = container.journal("-t", "chdebugd", VM=name, MESSAGE_ID=EVENT, VM_BOOT=boot)
    return [(int(entry["SEQ"]), int(entry["CODE"], 16)) for entry in marks]


def assert_account(container: Container, name: str, written: int) -> None:
    """The journal has what a metronome wrote in one boot: once, in order, and all of it."""
    marks = journalled(container, name)
    expected = [(seq, (seq - 1) & 0xFF) for seq in range(1, written + 1)]
    assert marks == expected, first_difference(marks, expected)


def first_difference(marks: list[tuple[int, int]], expected: list[tuple[int, int]]) -> str:
    pairs = enumerate(itertools.zip_longest(marks, expected))
    at = next((at for at, (mark, wanted) in pairs if mark != wanted), 0)
    part = slice(at, at + 5)
    return f"{len(marks)} marks of {len(expected)}; at {at}: {marks[part]}, not {expected[part]}"


def log_codes(container: Container, path: str) -> list[int]:
    """The codes in a log file, line by line."""
    lines = container.get(path).decode().splitlines()
    return [int(line.split("] ")[0].split("code ")[1], 16) for line in lines]


def assert_log(container: Container, name: str, written: int) -> None:
    codes = log_codes(container, f"/var/log/chdebugd/{name}.log")
    assert codes == [n & 0xFF for n in range(written)], f"{name}: {len(codes)} lines of {written}"


class Signals:
    """All DebugEvent signals since `start`, as a monitor of the bus has them."""

    FILE = "/root/signals"

    def __init__(self, container: Container) -> None:
        self._container = container

    def heard(self) -> dict[str, list[int]]:
        """The sequence numbers by VM."""
        heard = defaultdict(list)
        for line in self._container.get(self.FILE).decode().splitlines():
            message: dict[str, Any] = json.loads(line)
            path, body = message["path"], message["payload"]["data"]
            heard[path.removeprefix(VM_PATH)].append(body[0])
        return heard


@contextlib.contextmanager
def beside(container: Container, script: str) -> Iterator[None]:
    """A shell script in the container while the block runs."""
    command = container.command("sh", "-c", script)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def monitor(container: Container) -> Iterator[Signals]:
    """Hear every signal, whoever owns the name by then."""
    match = "type='signal',interface='org.chdebugd1.VM',member='DebugEvent'"
    script = f'exec stdbuf -oL busctl --json=short --match="{match}" monitor > {Signals.FILE}'
    with beside(container, script):
        wait_for(lambda: container.run("test", "-s", Signals.FILE, check=False).returncode == 0)
        yield Signals(container)


def answer_times(container: Container, count: int = 100) -> list[float]:
    """How long the daemon takes for a ListVMs, in seconds, the shortest first."""
    container.put(CLIENT, CLIENT_SOURCE.encode())
    done = container.run("python3", CLIENT, str(count))
    return sorted(json.loads(done.stdout))


def assert_answers(container: Container) -> None:
    """The daemon answers within 100 ms; a busy host may delay some of many answers."""
    times = answer_times(container)
    assert times[len(times) // 2] < 0.1, f"the median answer took {times[len(times) // 2]} s"


@contextlib.contextmanager
def answering(container: Container) -> Iterator[None]:
    """The daemon answers within 100 ms while the block runs, as `assert_answers` has it."""
    container.put(CLIENT, CLIENT_SOURCE.encode())
    command = container.command("python3", CLIENT)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        yield
        said, _ = client.communicate()
    times = sorted(json.loads(said))
    assert times[len(times) // 2] < 0.1, f"the median answer took {times[len(times) // 2]} s"


def entries(container: Container, kind: str, name: str) -> list[dict[str, str]]:
    """The journal's entries of one MESSAGE_ID about a VM's boot."""
    boot = get(container, name, "BootID")
    return container.journal("-t", "chdebugd", VM=name, MESSAGE_ID=kind, VM_BOOT=boot)
