"""The commands of README.md as a reader types them, in a container with a real systemd."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.container import Container

from chdebugd.ctl.errors import ExitStatus
from tests.docs.fences import commands, outputs, shape
from tests.system.conftest import wait_for

pytestmark = pytest.mark.kvm
RECOMMENDED = ("python3-rich", "python3-scipy")
PATIENCE = 30  # seconds until what a guest does is in the journal and the log file
WAITS = ("journalctl", "grep")  # commands that a reader repeats until there is something
ENDLESS = "busctl monitor org.chdebugd1"
WATCHED = "/root/watched"


def says_yes(container: Container) -> Container:
    """The reader of apt's question."""
    container.put("/etc/apt/apt.conf.d/99yes", b'APT::Get::Assume-Yes "true";\n')
    return container


@pytest.fixture
def bare(root: Path, deb: Path) -> Iterator[Container]:
    """Nothing of ours but the .deb in root's home."""
    with Container(root) as container:
        container.put(f"/root/{deb.name}", deb)
        # This apt installs nothing that is recommended only; a reader's does.
        container.run("apt-get", "install", "--yes", *RECOMMENDED)
        yield says_yes(container)


def typed(container: Container, command: str) -> subprocess.CompletedProcess[str]:
    """What one line does, in root's home."""
    return container.run("sh", "-c", f"cd /root && {command}", check=False)


def begin_to_watch(container: Container) -> None:
    """A second terminal."""
    unit = ["--unit=watch", f"--property=StandardOutput=file:{WATCHED}"]
    container.run("systemd-run", *unit, *ENDLESS.split())
    wait_for(lambda: "Monitoring" in typed(container, f"cat {WATCHED}").stdout)


def follow(container: Container, command: str) -> None:
    """Do as a reader does; what looks for a guest's marks is repeated until they are there."""
    deadline = time.monotonic() + PATIENCE
    done = typed(container, command)
    while command.startswith(WAITS) and not _shows_marks(done):
        assert time.monotonic() < deadline, f"{command}\n{done.stdout}{done.stderr}"
        time.sleep(0.2)
        done = typed(container, command)
    good = (
        (ExitStatus.OK, ExitStatus.EXCEEDED)
        if command.startswith("chdebugctl bench")
        else (ExitStatus.OK,)
    )
    assert done.returncode in good, f"{command}\n{done.stdout}{done.stderr}"


def _shows_marks(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 0 and "Debug I/O port" in done.stdout


def test_every_command_for_a_host_works_in_the_readmes_order(bare: Container) -> None:
    for command in commands("container"):
        if command.startswith("busctl call"):
            begin_to_watch(bare)
        if command.startswith(ENDLESS):
            wait_for(lambda: "Member=DebugEvent" in typed(bare, f"cat {WATCHED}").stdout)
        else:
            follow(bare, command)

    assert typed(bare, "systemctl is-active chdebugd-vm@fw0").stdout == "inactive\n"
    for command, output in outputs():
        assert shape(typed(bare, command).stdout) == shape(output)


def test_the_journal_of_a_host_arrives_at_the_collector(container: Container) -> None:
    container.start_vm("first")

    for command in commands("collector"):
        follow(says_yes(container), command)


def test_the_guest_kit_is_enabled_and_not_started(deb: Path, container: Container) -> None:
    """The container stands for a guest; the marks of its boot were due before the installation."""
    [package] = deb.parent.glob("chdebugd-guest_*.deb")
    says_yes(container).put(f"/root/{package.name}", package)

    for command in commands("guest"):
        follow(container, command)

    for target in ("sysinit", "basic", "network-online", "multi-user"):
        unit = f"chdebug-mark-{target}.service"
        assert typed(container, f"systemctl is-enabled {unit}").stdout == "enabled\n"
        assert typed(container, f"systemctl is-active {unit}").stdout == "inactive\n"
    wants = "/etc/systemd/system/cron.service.wants/chdebug-mark-ready@cron.service"
    assert typed(container, f"test -e {wants}").returncode == 0


def test_the_commands_of_the_man_pages_work(container: Container) -> None:
    """Those of org.chdebugd1(5) and chdebugd(8), in the order in which they stand there."""
    for page in ("org.chdebugd1.5", "chdebugd.8"):
        for command in examples(page):
            follow(container, command)


def examples(page: str) -> list[str]:
    """The literal lines of a page that are commands."""
    text = (Path(__file__).parents[2] / "packaging/man" / page).read_text()
    lines = "".join(re.findall(r"^\.EX\n(.*?)^\.EE", text, re.MULTILINE | re.DOTALL)).splitlines()
    programs = ("busctl", "journalctl", "systemctl", "chdebugctl")
    return [line.replace("\\-", "-") for line in lines if line.startswith(programs)]
