"""-H through a real sshd, and -M into another mount namespace."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ctl.conftest import Ctl, environment, wait_for
from tests.dbus.conftest import TIMEOUT
from tests.guests import SHUTDOWN, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

OTHER_MACHINE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/sshd
touch /run/dbus/system_bus_socket
mount --bind "$0" /run/dbus/system_bus_socket
exec "$@"
"""
"""A command that finds the test's bus where a machine has its system bus."""
SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/key
AuthorizedKeysFile {directory}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
LogLevel ERROR
"""
SSH = """
Host there
    HostName 127.0.0.1
    Port {port}
    User root
    IdentityFile {directory}/key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    BatchMode yes
"""


@dataclass
class Remote:
    """chdebugctl with a PATH on which some commands are ours."""

    ctl: Ctl
    words: list[str]
    commands: Path
    more: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, status: int = 0) -> str:
        """What it prints on both of its outputs; it must end with this exit status."""
        command = [*self.ctl.command()[:3], *self.words, *words]
        path = f"{self.commands}:{os.environ['PATH']}"
        done = subprocess.run(
            command,
            env=environment() | {"PATH": path} | self.more,
            cwd=self.ctl.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * TIMEOUT,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout


def script(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@contextmanager
def elsewhere(ctl: Ctl, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a mount namespace of its own; it is ended in any case."""
    bus = ctl.address.removeprefix("unix:path=")
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", OTHER_MACHINE, bus]
    with subprocess.Popen([*unshare, *command]) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture
def over_ssh(ctl: Ctl, tmp_path: Path) -> Iterator[Remote]:
    directory = tmp_path / "ssh"
    directory.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")]
    subprocess.run(keygen, check=True)
    (directory / "sshd").write_text(SSHD.format(port=port, directory=directory))
    (directory / "config").write_text(SSH.format(port=port, directory=directory))
    script(directory, "ssh", f'exec /usr/bin/ssh -F {directory}/config "$@"')
    with elsewhere(ctl, "/usr/sbin/sshd", "-D", "-f", str(directory / "sshd")):
        wait_for(lambda: _listens(port))
        yield Remote(ctl, ["-H", "there", "-D", str(ctl.journald.directory)], directory)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_verbs_work_on_another_machine(over_ssh: Remote) -> None:
    shown = over_ssh.run("boot", "--name=r", "--keep", "--map=demo")

    assert "0x60 userspace-start" in shown
    assert "after 10 marks" in shown
    assert "stopped" in over_ssh.run("list")
    assert "Custom 0xff" in over_ssh.run("status", "r")
    assert "Boot of 'r' took" in over_ssh.run("time", "r")
    assert over_ssh.run("events", "r", "--csv").count("\n") == 11
    assert '"cpu"' in over_ssh.run("export", "--format=runs", "r")
    over_ssh.run("remove", "r")


def test_files_do_not_cross_ssh_and_that_is_told(over_ssh: Remote) -> None:
    (over_ssh.ctl.directory / "fw").write_bytes(b"x")

    told = over_ssh.run("boot", "--firmware", "fw", status=1)

    assert "'fw' cannot go to there: open files do not cross ssh" in told
    assert "ssh -t there chdebugctl boot" in told
    assert "run chdebugctl console on that machine" in over_ssh.run("console", "r", status=1)


def test_a_machine_that_nobody_reaches_is_told(ctl: Ctl, tmp_path: Path) -> None:
    script(tmp_path, "ssh", "echo 'ssh: no such host' >&2; exit 255")

    told = Remote(ctl, ["-H", "nowhere"], tmp_path).run("list", status=1)

    assert "ssh: no such host" in told
    assert "on nowhere" in told


def test_verbs_work_in_a_container(ctl: Ctl, tmp_path: Path) -> None:
    # machinectl needs machined and that PID 1 is systemd; all else here is real.
    with elsewhere(ctl, "sleep", "600") as leader:
        bus = Path(f"/proc/{leader.pid}/root/run/dbus/system_bus_socket")
        wait_for(bus.is_socket)
        show = '[ "$*" = "show --property=Leader --value box" ]'
        script(tmp_path, "machinectl", f"{show} && echo {leader.pid}")
        box = Remote(ctl, ["-M", "box", "-D", str(ctl.journald.directory)], tmp_path)
        firmware = tmp_path / "fw"
        firmware.write_bytes(rom(mark(0x42) + SHUTDOWN))

        shown = box.run("boot", "--name=b", "--firmware", str(firmware))

        assert "0x42" in shown
        assert "Boot of 'b' took" in box.run("time", "b")


def test_a_container_that_is_not_there_is_told(ctl: Ctl, tmp_path: Path) -> None:
    script(tmp_path, "machinectl", "echo \"No machine 'nix' known\" >&2; exit 1")

    told = Remote(ctl, ["-M", "nix"], tmp_path).run("list", status=1)

    assert "Cannot find container 'nix': No machine 'nix' known; see machinectl list" in told


def test_the_places_exclude_each_other(ctl: Ctl, tmp_path: Path) -> None:
    told = Remote(ctl, ["-M", "a", "-H", "b"], tmp_path).run("list", status=2)

    assert "--host and --machine exclude each other" in told
