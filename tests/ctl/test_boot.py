"""`boot` and the verbs for VMs, with real guests."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.ctl.conftest import Ctl, Journald, wait_for
from tests.guests import FOREVER, SHUTDOWN, SLEEP, TRIPLE_FAULT, burst, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

DEMO_CODES = [0x00, 0x01, 0x20, 0x21, 0x40, 0x41, 0x60, 0x61, 0x80, 0xFF]


def guest(ctl: Ctl, code: bytes) -> str:
    """A firmware file with this code."""
    path = ctl.directory / "guest.bin"
    path.write_bytes(rom(code))
    return str(path)


def names(ctl: Ctl) -> list[str]:
    return [vm["Name"] for vm in ctl.json("list")]


def test_the_demo_guest_boots_and_its_marks_are_shown(ctl: Ctl) -> None:
    lines = ctl.run("boot", "--name", "demo").stdout.splitlines()

    assert lines[0].split() == ["ELAPSED", "DELTA", "COMPONENT", "CODE", "NAME"]
    assert [int(line.split()[3], 16) for line in lines[1:-1]] == DEMO_CODES
    assert lines[-1] == "VM 'demo' stopped (shutdown) after 10 marks: chdebugctl time demo"
    assert names(ctl) == []


def test_json_is_one_object_a_mark(ctl: Ctl) -> None:
    lines = ctl.run("--json=short", "boot", "--map", "cloud-hypervisor").stdout.splitlines()

    marks = [json.loads(line) for line in lines]
    assert [found["code"] for found in marks] == DEMO_CODES
    assert [found.get("name") for found in marks if found["code"] in (0x40, 0x41)] == [
        "kernel-start",
        "userspace-start",
    ]


def test_files_go_along_as_descriptors(ctl: Ctl) -> None:
    log = ctl.directory / "marks.log"

    ctl.run(
        *("boot", "--firmware", guest(ctl, mark(0x42) + SHUTDOWN), "--log-file", "marks.log"),
        *("--memory", "size=64M", "--cpus", "boot=1", "-vvv"),
    )

    assert log.read_text().count("[Debug I/O port: Kernel code 0x42]") == 1


def test_the_awaited_code_ends_it_and_the_vm_runs_on(ctl: Ctl) -> None:
    ctl.run(
        *("boot", "--name", "a", "--firmware", guest(ctl, mark(1, 0x40) + SLEEP)), "--wait=0x40"
    )

    [vm] = ctl.json("list")
    assert (vm["Name"], vm["State"], vm["LastCode"]) == ("a", "running", 0x40)


@pytest.mark.parametrize("wanted", ["Kernel", "kernel-start", "0x40", "64"])
def test_a_mark_is_awaited_by_component_name_or_code(ctl: Ctl, wanted: str) -> None:
    firmware = guest(ctl, mark(1, 0x40) + SLEEP)

    done = ctl.run("boot", "--firmware", firmware, "--map=cloud-hypervisor", "--wait", wanted)

    assert f"{wanted} has come" in done.stdout


def test_the_deadline_names_the_last_code(ctl: Ctl) -> None:
    firmware = guest(ctl, mark(1, 0x40) + FOREVER)

    done = ctl.run(*("boot", "--name=s", "--firmware", firmware, "--wait", "--timeout=3"), status=4)

    assert "VM 's' is stuck at Kernel 0x40 after 3 s; Userspace did not come" in done.stderr
    assert names(ctl) == []


def test_a_guest_that_ends_before_the_awaited_code_is_an_error(ctl: Ctl) -> None:
    done = ctl.run("boot", "--name=e", "--wait=0x99", status=3)

    assert "VM 'e' ended before 0x99 came (shutdown), at Custom 0xff" in done.stderr


def test_a_guest_that_fails_is_an_error(ctl: Ctl) -> None:
    done = ctl.run("boot", "--name=f", "--firmware", guest(ctl, TRIPLE_FAULT), status=3)

    assert "VM 'f' ended (triple-fault), at Kernel 0x42" in done.stderr


def test_keep_leaves_the_vm(ctl: Ctl) -> None:
    ctl.run("boot", "--name=k", "--keep")

    [vm] = ctl.json("list")
    assert (vm["Name"], vm["State"], vm["Result"]) == ("k", "stopped", "shutdown")


def test_ctrl_c_stops_the_guest(ctl: Ctl) -> None:
    firmware = guest(ctl, mark(0x40) + SLEEP)
    with ctl.popen("boot", "--name=c", "--firmware", firmware) as boot:
        assert boot.stdout is not None
        assert "ELAPSED" in boot.stdout.readline()
        assert "Kernel" in boot.stdout.readline()

        boot.send_signal(signal.SIGINT)

        out, _ = boot.communicate(timeout=30)
    assert boot.returncode == 130
    assert "VM 'c' was stopped by Ctrl-C (stopped), at Kernel 0x40" in out
    assert names(ctl) == []


def test_a_burst_is_shown_without_a_gap(ctl: Ctl) -> None:
    firmware = guest(ctl, burst(20_000) + SHUTDOWN)

    lines = ctl.run("--json=short", "boot", "--firmware", firmware).stdout.splitlines()

    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 20_001))


def test_status_shows_the_last_marks_however_many_there_are(ctl: Ctl) -> None:
    firmware = guest(ctl, burst(1000) + mark(0x41) + SLEEP)
    ctl.run("boot", "--name=l", "--firmware", firmware, "--wait=0x41")
    ctl.run("reset", "l")
    wait_for(lambda: ctl.json("status", "l")[0]["EventCount"] == 2002)

    [vm] = ctl.json("status", "l")

    assert [found["seq"] for found in vm["LastMarks"]] == list(range(992, 1002))
    assert vm["LastMarks"][-1]["code"] == 0x41


def test_the_verbs_for_vms(ctl: Ctl) -> None:
    ctl.run("boot", "--detach", "--name=v", "--firmware", guest(ctl, mark(0x40) + SLEEP))

    def state() -> str:
        return str(ctl.json("status", "v")[0]["State"])

    wait_for(lambda: ctl.json("status", "v")[0]["EventCount"] == 1)
    ctl.run("pause", "v")
    assert state() == "paused"
    ctl.run("resume", "v")
    ctl.run("reset", "v")
    wait_for(lambda: ctl.json("status", "v")[0]["BootCount"] == 2)
    ctl.run("stop", "v")
    assert state() == "stopped"
    ctl.run("start", "v")
    wait_for(lambda: state() == "running")
    ctl.run("kill", "v")
    text = ctl.run("status", "v").stdout
    assert "State: stopped (killed)" in text
    ctl.run("remove", "v")
    assert names(ctl) == []


def test_the_marks_of_a_terminal_go_to_stderr(ctl: Ctl) -> None:
    hello = b"".join(
        b"\xba\xf8\x03"  # mov $0x3f8, %dx
        + bytes([0xB0, byte])  # mov $byte, %al
        + b"\xee"  # out %al, %dx
        for byte in b"hello\n"
    )
    firmware = guest(ctl, mark(0x40) + hello + mark(0x41) + SLEEP)
    with ctl.popen("boot", "--firmware", firmware, "--serial=tty", "--wait=0x99") as boot:
        assert boot.stdout is not None
        assert boot.stderr is not None
        assert boot.stdout.readline() == "hello\n"
        assert "ELAPSED" in boot.stderr.readline()
        assert "0x40" in boot.stderr.readline()

        boot.send_signal(signal.SIGTERM)
        boot.send_signal(signal.SIGTERM)

        boot.communicate(timeout=30)
    assert boot.returncode == 130


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--kernel", "/nowhere"], "Cannot open '/nowhere': No such file or directory"),
        (["--disk", "readonly=on"], "--disk needs path=FILE"),
        # Nobody may write it, root neither.
        (["--disk", "path=/sys/kernel/uevent_seqnum"], "or add readonly=on where you may only"),
        (["--disk", "path=/x,num_queues=4"], "'num_queues' is not supported"),
        (["--cpus", "boot=1,max=4"], "give max the number of boot"),
        (["--memory", "size=lots"], "'lots' is not a size"),
        (["--net", "tap=a-name-that-is-too-long"], "a name has 1 to 15 bytes"),
        (["--serial", "telepathy"], "--serial is 'telepathy'"),
        (["--rng", "src=/etc/passwd"], "'/etc/passwd' is not supported"),
        (["--wait", "0x100"], "'0x100' is not a code"),
        (["--timeout", "0"], "--timeout must be above 0"),
    ],
)
def test_a_wrong_argument_is_told_in_a_sentence(
    words: list[str], sentence: str, bus_address: str
) -> None:
    ctl = Ctl(bus_address, Journald(Path(), Path()), Path())

    with ctl.popen("boot", *words) as done:
        _, errors = done.communicate(timeout=30)

    assert done.returncode in (1, 2)
    assert errors.startswith("chdebugctl: ")
    assert sentence in errors
    assert errors.count("\n") == 1


def test_no_daemon_is_told_with_the_next_step(bus_address: str) -> None:
    done = Ctl(bus_address, Journald(Path(), Path()), Path()).run("list", status=1)

    assert done.stderr == (
        "chdebugctl: chdebugd does not run; start it: systemctl start chdebugd\n"
    )


def test_no_bus_is_told_with_the_next_step() -> None:
    done = Ctl("unix:path=/nowhere", Journald(Path(), Path()), Path()).run("list", status=1)

    assert "Cannot connect to unix:path=/nowhere" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bus_that_hangs_up_is_told(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "bus"))
    listener.listen()
    with (
        listener,
        Ctl(f"unix:path={tmp_path / 'bus'}", Journald(Path(), Path()), tmp_path).popen(
            "list"
        ) as ctl,
    ):
        connection, _ = listener.accept()
        with connection:
            connection.shutdown(socket.SHUT_WR)
            _, errors = ctl.communicate(timeout=30)

    assert ctl.returncode == 1
    assert "Cannot connect" in errors


def test_a_closed_pipe_ends_it_quietly(ctl: Ctl) -> None:
    ctl.run("boot", "--name", "demo")
    out, end = os.pipe()
    os.close(out)

    with ctl.popen("events", "demo", stdout=end) as events:
        os.close(end)
        assert events.stderr is not None
        assert events.stderr.read() == ""
    assert events.returncode == 0
