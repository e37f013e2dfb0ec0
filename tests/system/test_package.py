"""The .deb: installed on a minimal Debian, upgraded, removed and purged."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container.container import MANAGER, Container
from container.debian import debian_root

from tests.guests import FOREVER, mark
from tests.system.conftest import DEMO_EVENTS, ROOT, get, guest, wait_for, wait_state

UPGRADE = "9.0"


@pytest.fixture(params=["bookworm", "trixie"])
def minimal(request: pytest.FixtureRequest, deb: Path) -> Iterator[Container]:
    """A Debian without anything that the package needs, booted; the package is not installed."""
    with Container(debian_root(request.param, deb)) as container:
        yield container


@pytest.fixture(scope="session")
def newer_deb(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package with a higher version."""
    place = tmp_path_factory.mktemp("newer")
    tree, package = place / "tree", place / f"chdebugd_{UPGRADE}_amd64.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN" / "control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"Version: {UPGRADE}\n" if line.startswith("Version:") else line for line in lines)
    )
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True)
    return package


def state(container: Container, unit: str) -> str:
    return container.run("systemctl", "is-active", unit, check=False).stdout.strip()


def pid(container: Container, unit: str) -> str:
    return container.run("systemctl", "show", "--value", "-p", "MainPID", unit).stdout.strip()


def test_lintian_finds_nothing(deb: Path) -> None:
    """Overrides have their reasons beside them in packaging/debian."""
    assert shutil.which("lintian"), "lintian is missing; run `make deps`"
    packages = sorted(map(str, deb.parent.glob("*.deb")))
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.kvm
def test_it_runs_on_a_minimal_debian(minimal: Container, deb: Path) -> None:
    said = minimal.install(deb)
    assert "Failed" not in said
    wait_for(lambda: state(minimal, "chdebugd") == "active")
    restarts = minimal.run("systemctl", "show", "--value", "-p", "NRestarts", "chdebugd").stdout
    assert restarts == "0\n"

    minimal.start_vm("demo", ("log-file", "s", "demo.log"))
    wait_state(minimal, "demo", "stopped")
    assert len(minimal.marks("demo")) == DEMO_EVENTS
    assert minimal.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
    assert minimal.run("systemctl", "is-enabled", "chdebugd").stdout == "enabled\n"


@pytest.mark.kvm
def test_an_upgrade_leaves_guests_alone(fresh_container: Container, newer_deb: Path) -> None:
    fresh_container.start_vm("lives", guest(fresh_container, "lives", mark(0x40) + FOREVER))
    daemon, vm = pid(fresh_container, "chdebugd"), pid(fresh_container, "chdebugd-vm@lives")
    fresh_container.install(newer_deb)

    assert pid(fresh_container, "chdebugd") not in (daemon, "0")
    assert pid(fresh_container, "chdebugd-vm@lives") == vm
    assert get(fresh_container, "lives", "State") == "running"
    assert get(fresh_container, "lives", "EventCount") == "1"


@pytest.mark.kvm
def test_removal_ends_guests_and_purge_leaves_nothing(fresh_container: Container) -> None:
    image = guest(fresh_container, "ends", mark(0x40) + FOREVER)
    fresh_container.start_vm("ends", image, ("log-file", "s", "ends.log"))
    fresh_container.run("apt-get", "remove", "--yes", "chdebugd")

    assert processes(fresh_container) == []
    ended = fresh_container.journal("-t", "chdebugd", VM="ends", RESULT="stopped")
    assert len(ended) == 1
    assert b"0x40" in fresh_container.get("/var/log/chdebugd/ends.log")
    refused = fresh_container.busctl("call", *MANAGER, "ListVMs", check=False)
    assert refused.returncode != 0

    fresh_container.run("apt-get", "purge", "--yes", "chdebugd")
    assert leftovers(fresh_container) == []
    wait_for(lambda: state(fresh_container, "chdebugd") == "inactive")


@pytest.mark.kvm
def test_a_purged_package_can_come_again(fresh_container: Container, deb: Path) -> None:
    fresh_container.run("apt-get", "purge", "--yes", "chdebugd")
    fresh_container.install(deb)
    fresh_container.start_vm("again")

    wait_state(fresh_container, "again", "stopped")


def processes(container: Container) -> list[str]:
    """Of the user chdebugd, whatever they run."""
    script = "cd /proc && stat --format='%U %n' [0-9]* 2>/dev/null || true"
    owned = container.run("sh", "-c", script).stdout.splitlines()
    return [line for line in owned if line.startswith("chdebugd ")]


def leftovers(container: Container) -> list[str]:
    """Files named after us, but for what the test put there and what is apt's or the journal's."""
    command = ["find", "/", "-xdev", "-name", "*chdebugd*"]
    command += ["-not", "-path", "/root/*", "-not", "-path", "/var/cache/apt/*"]
    return container.run(*command).stdout.splitlines()


@pytest.mark.kvm
def test_the_autopkgtests_pass(deb: Path) -> None:
    """By the tool that Debian runs them with, on the container as it is (its 'null' testbed)."""
    root = debian_root("bookworm", deb)
    with Container(root) as container:
        container.run("apt-get", "install", "--yes", "autopkgtest")
        container.put("/root/chdebugd.deb", deb)
        for file in (ROOT / "packaging" / "debian").rglob("*"):
            if file.is_file():
                target = file.relative_to(ROOT / "packaging")
                container.put(f"/root/source/{target}", file, file.stat().st_mode & 0o777)
        command = ["autopkgtest", "/root/chdebugd.deb", "/root/source", "--", "null"]
        done = container.run(*command, check=False, timeout=300)

    passed = [line.split() for line in done.stdout.splitlines() if line.endswith(" PASS")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert [words[0] for words in passed] == ["main-job", "restart"]
