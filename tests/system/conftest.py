"""A container with a real systemd, in which the .deb of this checkout is installed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter
from container.container import Container
from container.debian import debian_root
from container.host import check_host
from container.trouble import NoContainerError

from chdebugd.object_path import vm_path
from tests.guests import rom

ROOT = Path(__file__).parents[2]
TIMEOUT = 120  # seconds for anything that must happen
DEMO_EVENTS = 10  # marks of the embedded demo guest
VM = "org.chdebugd1.VM"


def why_no_container() -> str:
    """Empty where this host can have containers."""
    try:
        check_host()
    except NoContainerError as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.system)
    reason = here and why_no_container()
    if reason:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say it where nobody can miss it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if any("tests/system/" in report.nodeid for report in skipped) and why_no_container():
        title = f"NO CONTAINERS: ALL SYSTEM TESTS WERE SKIPPED: {why_no_container()}"
        terminalreporter.section(title, sep="!")


def pytest_exception_interact(node: pytest.Item, report: pytest.TestReport) -> None:
    """A test that failed shows the journal of its container."""
    for value in getattr(node, "funcargs", {}).values():
        if isinstance(value, Container):
            said = value.run("journalctl", "--no-pager", "--lines=100", check=False).stdout
            report.sections.append(("Journal of the container", said))


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from this checkout."""
    target = tmp_path_factory.mktemp("deb")
    subprocess.run([ROOT / "packaging" / "build-deb", target], check=True)
    [package] = target.glob("chdebugd_*.deb")
    return package


@pytest.fixture(scope="session")
def root(deb: Path) -> Path:
    """A minimal Debian that has nothing of ours."""
    return debian_root("bookworm", deb)


@pytest.fixture(scope="session")
def installed(root: Path, deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the installation of the package wrote over `root`."""
    layer = tmp_path_factory.mktemp("installed") / "layer"
    with Container(root, keep=layer) as container:
        container.install(deb)
        container.power_off()
    yield layer
    shutil.rmtree(layer)


@pytest.fixture(scope="module")
def container(root: Path, installed: Path) -> Iterator[Container]:
    """Booted and with the package installed, for all tests of a module."""
    with Container(root, over=installed) as container:
        yield container


@pytest.fixture(scope="session")
def fault_container(root: Path, deb: Path) -> Iterator[Container]:
    """One for all faults; each test leaves it whole."""
    with Container(root) as container:
        container.install(deb)
        for unit in ("systemd-journald", "dbus"):
            often = f"/run/systemd/system/{unit}.service.d/often.conf"
            container.put(often, b"[Unit]\nStartLimitIntervalSec=0\n")
        container.run("systemctl", "daemon-reload")
        yield container


@pytest.fixture
def fresh_container(root: Path, installed: Path) -> Iterator[Container]:
    """The same for one test, which may break it."""
    with Container(root, over=installed) as container:
        yield container


def wait_for(condition: Callable[[], bool]) -> None:
    """Until the condition holds; asks again and again."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"{condition} does not hold after {TIMEOUT} s"
        time.sleep(0.05)


def get(container: Container, vm: str, name: str) -> str:
    """A property of a VM, as busctl prints its value."""
    words = ["get-property", "org.chdebugd1", vm_path(vm), VM, name]
    return container.busctl(*words).stdout.split(maxsplit=1)[1].strip().strip('"')


def wait_state(container: Container, vm: str, state: str) -> None:
    """Until the VM is in that state."""
    wait_for(lambda: get(container, vm, "State") == state)


def guest(container: Container, name: str, code: bytes) -> tuple[str, str, str]:
    """Put a guest in machine code into a file that chdebugd may read: the option for it."""
    path = f"/srv/{name}.rom"
    container.put(path, rom(code))
    return ("firmware", "s", path)


def call_vm(container: Container, vm: str, method: str, *words: str) -> None:
    """Call a method of a VM as root."""
    container.busctl("call", "org.chdebugd1", vm_path(vm), VM, method, *words)
