"""What systemd, journald and polkit make of the units."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from container.container import MANAGER, Container

from tests.guests import SLEEP, mark
from tests.system.conftest import call_vm, get, guest, wait_for, wait_state

THREAD_FILTER = Path(__file__).parents[2] / "chdebugd/vmm/filter.h"
HAND_OVER = Path(__file__).with_name("hand_over.py")
MAP = b'title = "Mine"\nsource = "us"\n\n[codes]\n0x40 = "my-kernel"\n'
USE_MAP = ("code-map", "s", "mine")
UNITS = ("chdebugd.service", "chdebugd-vm@.service")


def show(container: Container, unit: str, name: str) -> str:
    return container.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()


def user_of(container: Container, unit: str) -> str:
    pid = show(container, unit, "MainPID")
    return container.run("stat", "--format=%U:%G", f"/proc/{pid}").stdout.strip()


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(container: Container, unit: str) -> None:
    """The score is at most 1.0; what owns VMs elsewhere scores 6 and more."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=10"]
    path = container.run("systemctl", "show", "--value", "-p", "FragmentPath", "chdebugd").stdout
    container.run(*command, f"{path.strip().rpartition('/')[0]}/{unit}")


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_in_a_unit(container: Container, unit: str) -> None:
    name = unit.replace("@", "@fw0")
    said = container.run("systemd-analyze", "verify", "--man=no", name, check=False)

    assert "chdebugd" not in said.stdout + said.stderr
    assert said.returncode == 0


def test_a_vm_process_may_call_what_each_of_its_threads_may(container: Container) -> None:
    """The filter of a thread narrows that of the unit; it does not ask for more."""
    of_the_unit = set(show(container, "chdebugd-vm@fw0", "SystemCallFilter").split())
    of_a_thread = set(re.findall(r"SCMP_SYS\((\w+)\)", THREAD_FILTER.read_text()))

    assert "mremap" in of_a_thread
    assert of_a_thread <= of_the_unit


@pytest.mark.kvm
def test_a_code_map_of_the_host_names_codes_in_the_journal(container: Container) -> None:
    """The VM's process reads it, in a root of its own."""
    container.put("/etc/chdebugd/codes/mine.toml", MAP)
    container.start_vm("mapped", guest(container, "mapped", mark(0x40) + SLEEP), USE_MAP)
    wait_for(lambda: len(container.marks("mapped")) == 1)
    [entry] = container.marks("mapped")
    call_vm(container, "mapped", "Kill")

    assert entry["CODE_NAME"] == "my-kernel"


@pytest.mark.kvm
def test_both_processes_run_as_chdebugd(container: Container) -> None:
    container.start_vm("who", guest(container, "who", SLEEP))

    assert user_of(container, "chdebugd.service") == "chdebugd:chdebugd"
    assert user_of(container, "chdebugd-vm@who.service") == "chdebugd:chdebugd"
    call_vm(container, "who", "Kill")


def test_a_vm_process_starts_without_site(container: Container) -> None:
    unit = container.run("systemctl", "cat", "chdebugd-vm@fw0").stdout
    [command] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    python, flags, program, *_ = command.removeprefix("ExecStart=").split()
    said = container.run(python, flags, "-X", "importtime", program, "--help").stderr
    loaded = [line.rpartition("|")[2].strip() for line in said.splitlines()]

    assert "chdebugd.vm_entry" in loaded
    assert "site" not in loaded


def test_a_call_starts_the_daemon(container: Container) -> None:
    container.run("systemctl", "stop", "chdebugd")
    assert show(container, "chdebugd", "ActiveState") == "inactive"

    answer = container.busctl("call", *MANAGER, "ListVMs")

    assert answer.stdout.startswith("a(sso) ")
    assert show(container, "chdebugd", "ActiveState") == "active"


def test_the_log_level_is_set_by_systemctl(container: Container) -> None:
    container.run("systemctl", "service-log-level", "chdebugd", "debug")
    level = container.run("systemctl", "service-log-level", "chdebugd").stdout
    container.run("systemctl", "service-log-level", "chdebugd", "info")

    assert level == "debug\n"


@pytest.mark.kvm
def test_reload_opens_the_log_file_anew(container: Container) -> None:
    """As logrotate asks for: the old file is moved away, and lines go on in a new one."""
    loop = mark(0x41) + b"\xfb\xf4" + SLEEP
    container.start_vm("turn", guest(container, "turn", loop), ("log-file", "s", "turn.log"))
    log = "/var/log/chdebugd/turn.log"
    wait_for(lambda: b"0x41" in container.get(log))
    container.run("mv", log, log + ".1")
    container.run("systemctl", "reload", "chdebugd")

    wait_for(lambda: container.run("test", "-e", log, check=False).returncode == 0)
    call_vm(container, "turn", "Reset")
    wait_for(lambda: b"0x41" in container.get(log))
    assert container.get(log + ".1").count(b"\n") == 1
    call_vm(container, "turn", "Kill")


@pytest.mark.kvm
def test_logrotate_turns_the_log_files(container: Container) -> None:
    container.run("apt-get", "install", "--yes", "logrotate")
    container.start_vm("old", ("log-file", "s", "old.log"))
    wait_state(container, "old", "stopped")
    container.run("logrotate", "--force", "/etc/logrotate.d/chdebugd")

    files = container.run("ls", "/var/log/chdebugd").stdout.split()
    assert "old.log.1" in files
    assert container.run("systemctl", "is-failed", "chdebugd", check=False).stdout == "active\n"


SAYS_IT = (
    b"\xba\x02\x04"  # mov $0x402, %dx
    + b"".join(
        bytes([0xB0, byte])  # mov $byte, %al
        + b"\xee"  # out %al, %dx
        for byte in b"text\n"
    )
    + mark(0x41)
    + SLEEP
)
CUT = """/tmp/cut.log /var/log/chdebugd/cut.log /var/log/chdebugd/cut.text {
	copytruncate
	rotate 8
	su root root
}
"""


@pytest.mark.kvm
def test_logrotate_cuts_files_in_place_that_it_cannot_have_opened_anew(
    container: Container,
) -> None:
    """Log and text files, and one that a member handed over; none gets a hole."""
    container.run("apt-get", "install", "--yes", "logrotate")
    container.user("cutter", "chdebugd")
    firmware = guest(container, "cut", SAYS_IT)
    container.start_vm(
        "cut", firmware, ("log-file", "s", "cut.log"), ("firmware-debug", "s", "file:cut.text")
    )
    arguments = ["cut_theirs", firmware[2], "/tmp/cut.log"]
    container.run("/usr/bin/python3", "-", *arguments, user="cutter", stdin=HAND_OVER.read_text())
    container.put("/srv/cut.conf", CUT.encode())
    files = {"/var/log/chdebugd/cut.log": b"0x41", "/tmp/cut.log": b"0x41"}
    files["/var/log/chdebugd/cut.text"] = b"text\n"

    for turn in range(1, 4):
        for path, text in files.items():
            wait_for(lambda path=path, text=text: container.get(path).count(text) == 1)  # type: ignore[misc]
        written = {path: container.get(path) for path in files}
        container.run("logrotate", "--force", "--state=/srv/cut.state", "/srv/cut.conf")
        assert [container.get(path) for path in files] == [b"", b"", b""]
        assert {path: container.get(f"{path}.1") for path in files} == written
        assert all(b"\0" not in text for text in written.values())
        for vm in ("cut", "cut_theirs"):
            call_vm(container, vm, "Reset")
            wait_for(lambda vm=vm, turn=turn: get(container, vm, "BootCount") == str(turn + 1))  # type: ignore[misc]
    for vm in ("cut", "cut_theirs"):
        call_vm(container, vm, "Kill")


@pytest.mark.kvm
def test_the_catalog_explains_a_mark(container: Container) -> None:
    container.start_vm("told")
    wait_state(container, "told", "stopped")
    text = container.run("journalctl", "-x", "-t", "chdebugd", "VM=told", "CODE=0x60").stdout

    assert "Subject: Guest told wrote Userspace code 0x60 to its debug port" in text
    assert "Defined-By: chdebugd" in text
    assert "The guest of virtual machine told wrote the byte 0x60 to I/O port 0x80," in text


@pytest.mark.kvm
def test_relative_log_files_lie_in_the_log_directory(container: Container) -> None:
    container.start_vm("here", ("log-file", "s", "here.log"))
    wait_state(container, "here", "stopped")

    name = container.run("stat", "--format=%U:%a", "/var/log/chdebugd/here.log").stdout
    assert name == "chdebugd:640\n"


@pytest.mark.kvm
def test_a_log_file_elsewhere_is_refused_with_the_ways_out(container: Container) -> None:
    words = ["StartVM", "sa{sv}", "there", "1", "log-file", "s", "/var/log/there.log"]
    answer = container.busctl("call", *MANAGER, *words, check=False)

    assert answer.returncode != 0
    assert "The daemon may not write '/var/log/there.log'" in answer.stderr
    assert "a descriptor" in answer.stderr
    assert "LogsDirectory=" in answer.stderr
    assert "there" not in container.busctl("call", *MANAGER, "ListVMs").stdout.split('"')


@pytest.mark.kvm
def test_a_directory_that_the_unit_names_takes_absolute_log_files(container: Container) -> None:
    drop_in = "[Service]\nLogsDirectory=chdebugd elsewhere\n"
    container.put("/etc/systemd/system/chdebugd.service.d/logs.conf", drop_in.encode())
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", "chdebugd")
    container.start_vm("wide", ("log-file", "s", "/var/log/elsewhere/wide.log"))
    wait_state(container, "wide", "stopped")

    assert container.get("/var/log/elsewhere/wide.log").count(b"\n") == 10


@pytest.mark.kvm
def test_guests_live_on_while_the_daemon_is_restarted(container: Container) -> None:
    container.start_vm("lives", guest(container, "lives", mark(0x40) + SLEEP))
    pid = show(container, "chdebugd-vm@lives", "MainPID")
    container.run("systemctl", "restart", "chdebugd")

    assert show(container, "chdebugd-vm@lives", "MainPID") == pid
    assert get(container, "lives", "State") == "running"
    assert get(container, "lives", "EventCount") == "1"
    call_vm(container, "lives", "Kill")
    wait_state(container, "lives", "stopped")


@pytest.mark.kvm
def test_a_restart_amid_marks_loses_none(container: Container) -> None:
    """U-Boot is still booting while the next daemon takes over."""
    firmware = ("firmware", "s", "/usr/lib/u-boot/qemu-x86/u-boot.rom")
    container.start_vm("amid", firmware, ("log-file", "s", "amid.log"))
    container.run("systemctl", "restart", "chdebugd")
    wait_for(lambda: int(get(container, "amid", "EventCount")) >= 8)
    call_vm(container, "amid", "Kill")
    wait_state(container, "amid", "stopped")

    written = int(get(container, "amid", "EventCount"))
    assert [int(mark["SEQ"]) for mark in container.marks("amid")] == list(range(1, written + 1))
    assert container.get("/var/log/chdebugd/amid.log").count(b"\n") == written
