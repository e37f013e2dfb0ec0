"""On a terminal: colours, progress, a pager, and a guest's console."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chdebugd.ctl.console import EscapeWatch
from chdebugd.ctl.output import Table, duration
from tests.ctl.conftest import Ctl, environment, wait_for
from tests.ctl.terminal import Terminal, on_terminal
from tests.guests import SLEEP, mark, rom

ESCAPE = "\x1d" * 3
ECHO = (
    b"\xba\xfd\x03"  # 1: mov $0x3fd, %dx      (line status)
    b"\xec"  # in %dx, %al
    b"\xa8\x01"  # test $1, %al
    b"\x74\xf8"  # jz 1b
    b"\xba\xf8\x03"  # mov $0x3f8, %dx
    b"\xec"  # in %dx, %al
    b"\xfe\xc0"  # inc %al
    b"\xee"  # out %al, %dx
    b"\xeb\xef"  # jmp 1b
)
"""Answers each character with the next one of the alphabet."""


def guest(ctl: Ctl, code: bytes) -> str:
    path = ctl.directory / "guest.bin"
    path.write_bytes(rom(code))
    return str(path)


@contextmanager
def ctl_on_terminal(ctl: Ctl, *words: str, **more: str) -> Iterator[Terminal]:
    known = environment() | {"TERM": "xterm-256color", "PAGER": "cat"}
    known.pop("NO_COLOR", None)
    with on_terminal(ctl.command(*words), known | more) as terminal:
        yield terminal


@pytest.mark.kvm
@pytest.mark.dbus
def test_marks_and_tables_have_colours_on_a_terminal_only(ctl: Ctl) -> None:
    with ctl_on_terminal(ctl, "boot", "--name=t") as boot:
        assert boot.wait() == 0
    with ctl_on_terminal(ctl, "time", "t") as time:
        assert time.wait() == 0

    assert "\x1b[36mKernel" in boot.raw
    assert "\x1b[36mKernel" in time.raw
    assert "\x1b" not in ctl.run("time", "t").stdout


@pytest.mark.kvm
@pytest.mark.dbus
def test_no_color_is_heeded(ctl: Ctl) -> None:
    with ctl_on_terminal(ctl, "boot", "--name=t", NO_COLOR="1") as boot:
        assert boot.wait() == 0
    with ctl_on_terminal(ctl, "time", "t", NO_COLOR="1") as time:
        assert time.wait() == 0

    assert "\x1b[36m" not in boot.raw + time.raw


@pytest.mark.kvm
@pytest.mark.dbus
def test_bench_shows_its_progress_on_a_terminal(ctl: Ctl) -> None:
    with ctl_on_terminal(ctl, "bench", "--runs=2") as bench:
        assert bench.wait() == 0

    assert "3/3" in bench.seen
    assert "MEDIAN" in bench.seen


@pytest.mark.kvm
@pytest.mark.dbus
def test_a_pager_is_used_on_a_terminal_unless_it_is_refused(ctl: Ctl, tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho PAGED with $LESS; cat\n")
    pager.chmod(0o755)
    with ctl_on_terminal(ctl, "list", PAGER=str(pager)) as paged:
        assert paged.wait() == 0
    with ctl_on_terminal(ctl, "--no-pager", "list", PAGER=str(pager)) as plain:
        assert plain.wait() == 0

    assert "PAGED with FRSXMK" in paged.seen
    assert "PAGED" not in plain.seen
    assert "0 VMs" in paged.seen
    assert "0 VMs" in plain.seen


@pytest.mark.kvm
@pytest.mark.dbus
@pytest.mark.parametrize("mode", ["pty", "socket"])
def test_a_console_carries_both_ways_and_detaches(ctl: Ctl, mode: str) -> None:
    firmware = guest(ctl, mark(0x40) + ECHO)
    ctl.run("boot", "--detach", "--name=c", "--firmware", firmware, "--serial", mode)
    with ctl_on_terminal(ctl, "console", "c") as console:
        console.wait_for("Attached to")

        console.say("HAL")

        console.wait_for("IBM")
        console.say(ESCAPE)
        assert console.wait() == 0

    assert ctl.json("status", "c")[0]["State"] == "running"


@pytest.mark.kvm
@pytest.mark.dbus
def test_boot_with_tty_is_a_console_and_the_escape_stops_the_vm(ctl: Ctl) -> None:
    firmware = guest(ctl, mark(0x40) + ECHO)
    with ctl_on_terminal(ctl, "boot", "--firmware", firmware, "--serial=tty") as boot:
        boot.wait_for("0x40")

        boot.say("HAL")

        boot.wait_for("IBM")
        boot.say(ESCAPE)
        assert boot.wait() == 130

    assert ctl.json("list") == []


@pytest.mark.kvm
@pytest.mark.dbus
@pytest.mark.parametrize("stdin", ["null", "pipe"])
def test_boot_with_tty_and_no_terminal_shows_all_the_same(ctl: Ctl, stdin: str) -> None:
    kind = {"null": subprocess.DEVNULL, "pipe": subprocess.PIPE}[stdin]
    with ctl.popen("boot", "--serial=tty", stdin=kind) as boot:
        _, errors = boot.communicate(timeout=60)

    assert boot.returncode == 0
    assert "0xff" in errors


@pytest.mark.kvm
@pytest.mark.dbus
def test_text_goes_to_a_file_that_the_caller_opens(ctl: Ctl) -> None:
    letters = b"".join(
        b"\xba\xf8\x03" + bytes([0xB0, byte]) + b"\xee"  # mov $0x3f8, %dx; mov, %al; out
        for byte in b"to a file\n"
    )
    firmware = guest(ctl, letters + mark(0x40) + SLEEP)

    ctl.run("boot", "--firmware", firmware, "--serial", "file=text", "--wait=0x40")

    wait_for(lambda: (ctl.directory / "text").read_text() == "to a file\n")


@pytest.mark.kvm
@pytest.mark.dbus
def test_a_console_that_is_not_there_is_told(ctl: Ctl) -> None:
    ctl.run("boot", "--detach", "--name=c", "--firmware", guest(ctl, mark(0x40) + SLEEP))

    assert "has no terminal; boot it with --serial pty" in ctl.run("console", "c", status=1).stderr


@pytest.mark.kvm
@pytest.mark.dbus
def test_the_monitor_shows_marks_and_states_of_all_vms(ctl: Ctl) -> None:
    with ctl.popen("monitor", "--component=Kernel") as monitor:
        assert monitor.stdout is not None
        assert monitor.stdout.readline() == "Listening; Ctrl-C ends\n"
        ctl.run("boot", "--name=m1", "--map=demo")
        ctl.run("boot", "--name=m2")
        lines: list[str] = []
        while not any(line.split() == ["m2", "stopped"] for line in lines):
            lines.append(monitor.stdout.readline())

    codes = [line.split()[4] for line in lines if " 0x" in line]
    assert codes == ["0x40", "0x41"] * 2
    assert any(line.split() == ["m1", "stopped"] for line in lines)
    assert any("protected-mode" in line for line in lines)


def test_the_escape_is_three_in_a_second() -> None:
    assert EscapeWatch().takes(b"a\x1d\x1d\x1d", 0)
    assert not EscapeWatch().takes(b"\x1d\x1da\x1d", 0)
    slow = EscapeWatch()
    assert [slow.takes(b"\x1d", at) for at in (0, 0.6, 1.2, 1.3)] == [False, False, False, True]


def test_plain_tables_are_aligned_and_never_cut() -> None:
    table = Table(["NAME", "MS"], frozenset({"MS"}))
    table.add("a" * 200, "1.5")
    table.add("b", "10.25")

    assert table.plain().splitlines() == [
        f"{'NAME':<200}     MS",
        f"{'a' * 200}    1.5",
        f"{'b':<200}  10.25",
    ]


def test_without_rich_tables_are_plain(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)  # type: ignore[misc]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table = Table(["A"])
    table.add("x")

    table.print(sys.stdout)

    assert capsys.readouterr().out == "A\nx\n"


@pytest.mark.parametrize(
    ("nsec", "text"),
    [
        (0, "0.000ms"),
        (19_004_000, "19.004ms"),
        (1_402_744_000, "1.403s"),
        (69_608_000_000, "1min 9.608s"),
    ],
)
def test_durations_read_as_in_systemd_analyze(nsec: int, text: str) -> None:
    assert duration(nsec) == text
