"""`pip install .` into a fresh environment: a daemon on a session bus, and its command line."""

from __future__ import annotations

import subprocess
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.packages.conftest import VERSION

pytestmark = [pytest.mark.dbus, pytest.mark.kvm]
TIMEOUT = 60  # seconds
DEMO_EVENTS = 10
MANAGER = ("org.chdebugd1", "/org/chdebugd1", "org.chdebugd1.Manager")


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment that knows nothing but what pip brought."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(["tar", "--extract", f"--file={archive}", "-C", place], check=True)
    venv.create(place / "venv", with_pip=True)
    pip: list[str | Path] = [
        place / "venv/bin/python",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
    ]
    done = subprocess.run(
        [*pip, "install", f"./chdebugd-{VERSION}"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "venv/bin"


@contextmanager
def session_bus() -> Iterator[str]:
    """The address of a dbus-daemon as a desktop session has it."""
    command = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        try:
            yield broker.stdout.readline().strip()
        finally:
            broker.terminate()


@contextmanager
def daemon(installed: Path, address: str, place: Path) -> Iterator[None]:
    """chdebugd on that bus, once it has its name."""
    command: list[str | Path] = [
        installed / "chdebugd",
        "--bus",
        address,
        "--journal",
        place / "no-journal",
    ]
    command += ["--runtime-dir", place / "run", "--log-dir", place]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while "org.chdebugd1" not in busctl(address, "list", "--acquired"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
        assert process.wait(TIMEOUT) == 0


def busctl(address: str, *words: str) -> str:
    """What busctl prints."""
    command = ["busctl", f"--address={address}", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_demo_guest_boots_on_a_session_bus(installed: Path, tmp_path: Path) -> None:
    with session_bus() as address, daemon(installed, address, tmp_path):
        start = ["call", *MANAGER, "StartVM", "sa{sv}", "demo", "1", "log-file", "s", "demo.log"]
        assert busctl(address, *start) == 'o "/org/chdebugd1/vm/demo"\n'

        state = ["get-property", MANAGER[0], "/org/chdebugd1/vm/demo", "org.chdebugd1.VM", "State"]
        deadline = time.monotonic() + TIMEOUT
        while busctl(address, *state) != 's "stopped"\n':
            assert time.monotonic() < deadline
            time.sleep(0.02)

    assert len((tmp_path / "demo.log").read_text().splitlines()) == DEMO_EVENTS


@pytest.mark.parametrize("command", ["chdebugd", "chdebugd-vm", "chdebugctl"])
def test_each_command_explains_itself(installed: Path, command: str) -> None:
    answer = subprocess.run(
        [installed / command, "--help"], check=True, capture_output=True, text=True
    )

    assert answer.stdout.startswith("usage: ")
