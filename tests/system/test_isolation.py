"""A VM process that its guest has taken over as a whole finds nothing of the other VMs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from container.container import Container

from tests.guests import SLEEP, mark
from tests.system.conftest import call_vm, guest, wait_for
from tests.system.faults import pid_of, unit_of

pytestmark = pytest.mark.kvm
NAMES = ("mine-a.1", "other")
INTRUDER = """
import json, os, socket, sys

PLACES = ["/dev/shm"] + ["/" + name for name in sorted(os.listdir("/")) if name[:3] != "lib"]

def tries(call):
    try:
        call()
    except OSError as error:
        return error.strerror
    return "done"

def connect(path, kind=socket.SOCK_SEQPACKET):
    socket.socket(socket.AF_UNIX, kind).connect(path)

print(json.dumps({
    "own socket": tries(lambda: connect("/run/chdebugd/vm/mine-a.1/sock")),
    "vms": os.listdir("/run/chdebugd/vm"),
    "other's socket": tries(lambda: connect("/run/chdebugd/vm/other/sock")),
    "another's place": tries(lambda: os.mkdir("/run/chdebugd/vm/new")),
    "bus": tries(lambda: connect("/run/dbus/system_bus_socket", socket.SOCK_STREAM)),
    "read": [place for place in PLACES if os.access(place, os.R_OK) and os.listdir(place)],
    "written": [place for place in PLACES if os.access(place, os.W_OK)],
    "log": tries(lambda: open("/var/log/chdebugd/other.log").close()),
    "disks": tries(lambda: os.listdir("/var/lib/chdebugd")),
    "other's memory": tries(lambda: open(f"/proc/{sys.argv[1]}/mem", "rb").close()),
}))
"""
USER = "/usr/bin/setpriv --reuid={0} --regid={0} --clear-groups --no-new-privs"


@pytest.fixture
def running(container: Container) -> Iterator[Container]:
    for name in NAMES:
        options = guest(container, name, mark(0x40) + SLEEP), ("log-file", "s", f"{name}.log")
        container.start_vm(name, *options)
    yield container
    for name in NAMES:
        call_vm(container, name, "Kill")
        call_vm(container, name, "Remove")


def test_a_vm_process_sees_nothing_of_the_others(running: Container) -> None:
    """What its namespaces show to its user; its own filters are tested beside them."""
    mine, other = (pid_of(running, unit_of(escaped(name))) for name in NAMES)
    user = USER.format(running.run("id", "--user", "chdebugd").stdout.strip()).split()
    enter = ["nsenter", f"--target={mine}", "--mount", "--net", "--ipc", "--", *user]
    done = running.run(*enter, "/usr/bin/python3", "-c", INTRUDER, str(other))

    assert json.loads(done.stdout) == {
        "own socket": "done",
        "vms": ["mine-a.1"],
        "other's socket": "No such file or directory",
        "another's place": "Read-only file system",
        "bus": "No such file or directory",
        "read": ["/dev", "/proc", "/run", "/usr"],
        "written": [],
        "log": "No such file or directory",
        "disks": "No such file or directory",
        "other's memory": "No such file or directory",
    }


def escaped(name: str) -> str:
    return subprocess.run(
        ["systemd-escape", name], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_what_a_vm_had_is_gone_with_it(running: Container) -> None:
    call_vm(running, "other", "Kill")
    call_vm(running, "other", "Remove")
    there = "/run/chdebugd/vm/other"
    wait_for(lambda: running.run("test", "-e", there, check=False).returncode != 0)

    assert running.run("ls", "/run/chdebugd/vm").stdout.split() == ["mine-a.1", "mine-a.1.json"]
    running.start_vm("other", guest(running, "other", SLEEP))
