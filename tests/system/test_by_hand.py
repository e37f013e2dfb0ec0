"""The commands of the README, word by word as root types them."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from container.container import Container

from tests.system.conftest import get, wait_for

pytestmark = pytest.mark.kvm

START = (
    "busctl call org.chdebugd1 /org/chdebugd1 org.chdebugd1.Manager StartVM 'sa{sv}' fw0 2"
    " firmware s /usr/lib/u-boot/qemu-x86/u-boot.rom log-file s fw0.log"
)


def typed(container: Container, line: str) -> str:
    """What a command line prints."""
    return container.run(*shlex.split(line)).stdout


@pytest.fixture(scope="module")
def u_boot(container: Container) -> Container:
    """U-Boot runs as fw0 and has made its first four marks."""
    typed(container, "systemctl start chdebugd")
    assert typed(container, START) == 'o "/org/chdebugd1/vm/fw0"\n'
    wait_for(lambda: int(get(container, "fw0", "EventCount")) >= 4)
    return container


def test_the_journal_has_the_marks_by_component(u_boot: Container) -> None:
    lines = typed(u_boot, "journalctl -t chdebugd VM=fw0 COMPONENT=Firmware -o cat").splitlines()

    assert [line.rpartition("] ")[0] for line in lines[:2]] == [
        "[Debug I/O port: Firmware code 0x1e",
        "[Debug I/O port: Firmware code 0x1f",
    ]


def test_the_log_file_is_grepped(u_boot: Container) -> None:
    lines = typed(u_boot, 'grep "Debug I/O port" /var/log/chdebugd/fw0.log').splitlines()

    assert len(lines) >= 4
    assert all(" DEBUG:vmm/debug_port -- [Debug I/O port: " in line for line in lines)


def test_the_vm_can_be_introspected(u_boot: Container) -> None:
    told = typed(u_boot, "busctl introspect org.chdebugd1 /org/chdebugd1/vm/fw0")

    members = {line.split()[0]: line.split()[1] for line in told.splitlines()[1:]}
    assert members["org.chdebugd1.VM"] == "interface"
    assert members[".Kill"] == "method"
    assert members[".State"] == "property"
    assert members[".DebugEvent"] == "signal"


def test_the_marks_come_as_signals(u_boot: Container) -> None:
    command = u_boot.command("busctl", "monitor", "org.chdebugd1")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as monitor:
        assert monitor.stderr is not None
        assert monitor.stdout is not None
        assert "Monitoring" in monitor.stderr.readline()
        u_boot.start_vm("heard")
        wanted = "Path=/org/chdebugd1/vm/heard  Interface=org.chdebugd1.VM  Member=DebugEvent"
        heard = any(wanted in line for line in monitor.stdout)  # fw0 may signal meanwhile
        monitor.kill()

    assert heard


def test_stopping_the_unit_ends_the_guest(u_boot: Container) -> None:
    typed(u_boot, "systemctl stop chdebugd-vm@fw0")

    wait_for(lambda: get(u_boot, "fw0", "State") == "stopped")
    assert u_boot.run("systemctl", "is-active", "chdebugd-vm@fw0", check=False).stdout == (
        "inactive\n"
    )
    assert get(u_boot, "fw0", "Result") == "stopped"
