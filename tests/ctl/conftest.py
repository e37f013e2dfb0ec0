"""A real daemon on a private bus, a real journald for it, and chdebugctl to run against both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.dbus.conftest import (
    ROOT,
    TIMEOUT,
    broker,
    bus_address,
    end_vm_processes,
)

__all__ = ["broker", "bus_address"]  # pytest finds these fixtures here

JOURNALD = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
mount --bind "$1" /run/log/journal
mkdir -p "/run/log/journal/$(cat /etc/machine-id)"
cat > /run/systemd/journald.conf.d/private.conf <<END
[Journal]
Storage=volatile
RateLimitIntervalSec=0
ReadKMsg=no
Audit=no
END
exec /lib/systemd/systemd-journald
"""
"""journald in a mount namespace of its own, with its files in a directory of ours."""
WITH_ETC = 'mount -t overlay overlay -o lowerdir="$0:/etc" /etc && exec "$@"'
"""A command that sees files of ours in /etc."""


@dataclass
class Journald:
    """A running journald: its native socket, and the directory of its files."""

    socket: Path
    directory: Path


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    if os.geteuid():
        pytest.skip("only root may run a journald in a mount namespace of its own")
    directory = tmp_path / "journal"
    directory.mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", JOURNALD, "sh"]
    with subprocess.Popen([*command, str(directory)], stderr=subprocess.DEVNULL) as process:
        socket = Path(f"/proc/{process.pid}/root/run/systemd/journal/socket")
        wait_for(lambda: socket.exists() and any(directory.glob("*/system.journal")))
        yield Journald(socket, directory)
        process.terminate()


def wait_for(condition: Any) -> Any:
    """What `condition` gives once it is true; looks again until it is."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
    return found


@dataclass
class Ctl:
    """chdebugctl with its bus and journal."""

    address: str
    journald: Journald
    directory: Path
    codes: Path = Path("/nowhere")
    """The daemon sees the files here in /etc/chdebugd/codes."""

    def command(self, *words: str) -> list[str]:
        """A command line."""
        ours = [sys.executable, "-m", "chdebugd.ctl"]
        return [*ours, "--bus", self.address, "-D", str(self.journald.directory), *words]

    @contextmanager
    def popen(self, *words: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
        """Start it, with pipes for all that is not given otherwise; it is ended in any case."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(
            self.command(*words), text=True, cwd=self.directory, env=environment(), **pipes | more
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run it to its end, which must have this exit status."""
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=environment(),
            timeout=4 * TIMEOUT,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def json(self, *words: str) -> Any:
        """The JSON value it prints."""
        return json.loads(self.run("--json=short", *words).stdout)


def environment() -> dict[str, str]:
    """Python warns of nothing but errors here as in the tests themselves."""
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@pytest.fixture
def ctl(bus_address: str, journald: Journald, tmp_path: Path) -> Iterator[Ctl]:
    """chdebugctl, and a daemon that serves it."""
    etc = tmp_path / "etc"
    for name in ("run", "log", "work", "etc/chdebugd/codes"):
        (tmp_path / name).mkdir(parents=True)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", WITH_ETC, str(etc)]
    command += [sys.executable, "-m", "chdebugd", "--bus", bus_address]
    command += ["--runtime-dir", str(tmp_path / "run"), "--log-dir", str(tmp_path / "log")]
    command += ["--journal", str(journald.socket), "--config", str(tmp_path / "chdebugd.conf")]
    with subprocess.Popen(command, env=environment()) as daemon:
        found = Ctl(bus_address, journald, tmp_path / "work", etc / "chdebugd" / "codes")
        wait_for(lambda: _answers(found))
        yield found
        end_vm_processes(tmp_path / "run")
        daemon.send_signal(signal.SIGTERM)


def _answers(ctl: Ctl) -> bool:
    done = subprocess.run(ctl.command("list"), capture_output=True, env=environment(), check=False)
    return done.returncode == 0


def entries_of(ctl: Ctl, *matches: str) -> list[dict[str, str]]:
    """What the journal has of chdebugd, as journalctl tells it."""
    command = ["journalctl", "-q", "-o", "json", "-D", str(ctl.journald.directory)]
    done = subprocess.run(
        [*command, "SYSLOG_IDENTIFIER=chdebugd", *matches],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
