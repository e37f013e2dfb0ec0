"""The RPM spec, with what Fedora's macros do for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.packages.conftest import ROOT

SPEC = ROOT / "packaging/rpm/chdebugd.spec"
MACROS = Path(__file__).with_name("fedora.macros")


@pytest.fixture(scope="module")
def packages(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built packages by name."""
    top = tmp_path_factory.mktemp("rpm")
    (top / "SOURCES").mkdir()
    (top / "SOURCES" / archive.name).write_bytes(archive.read_bytes())
    command = ["rpmbuild", "-bb", "--nodeps", f"--load={MACROS}", f"--define=_topdir {top}"]
    command += ["--define=_build_id_links none", str(SPEC)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return {path.name.rsplit("-", 2)[0]: path for path in top.glob("RPMS/x86_64/*.rpm")}


def query(package: Path, *words: str) -> list[str]:
    """Lines of what rpm says of a package file."""
    answer = subprocess.run(
        ["rpm", "--query", "--package", *words, package], check=True, capture_output=True, text=True
    )
    return answer.stdout.splitlines()


def test_rpmlint_finds_no_fault_in_the_spec() -> None:
    config = SPEC.with_suffix(".rpmlintrc")

    result = subprocess.run(
        ["rpmlint", "--strict", "--rpmlintrc", config, SPEC],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout


def test_both_packages_come_from_one_spec(packages: dict[str, Path]) -> None:
    assert set(packages) == {"chdebugd", "chdebugd-guest"}


@pytest.mark.parametrize(
    "path",
    [
        "/usr/bin/chdebugctl",
        "/usr/sbin/chdebugd",
        "/usr/lib/systemd/system/chdebugd.service",
        "/usr/lib/systemd/system/chdebugd-vm@.service",
        "/usr/lib/sysusers.d/chdebugd.conf",
        "/usr/lib/systemd/catalog/chdebugd.catalog",
        "/usr/share/dbus-1/interfaces/org.chdebugd1.VM.xml",
        "/usr/share/dbus-1/system.d/org.chdebugd1.conf",
        "/usr/share/polkit-1/rules.d/org.chdebugd1.rules",
        "/etc/logrotate.d/chdebugd",
    ],
)
def test_the_daemon_has_its_files(packages: dict[str, Path], path: str) -> None:
    assert path in query(packages["chdebugd"], "--list")


def test_the_daemon_has_extensions_demo_guest_and_code_maps(packages: dict[str, Path]) -> None:
    listed = " ".join(query(packages["chdebugd"], "--list"))

    for part in (
        "trace/_ring.",
        "vmm/_kvm.",
        "vmm/virtio/_engine.",
        "vmm/boot/demo_guest.bin",
        "trace/codes/cloud-hypervisor.toml",
    ):
        assert f"chdebugd/{part}" in listed


def test_the_guest_has_its_files_and_nothing_of_the_daemon(packages: dict[str, Path]) -> None:
    listed = query(packages["chdebugd-guest"], "--list")

    assert "/usr/bin/chdebug-mark" in listed
    assert "/usr/lib/dracut/modules.d/90chdebug-mark/module-setup.sh" in listed
    assert "/usr/lib/systemd/system/chdebug-mark-multi-user.service" in listed
    assert not [path for path in listed if "python" in path]


def test_removal_stops_guests_and_an_upgrade_does_not(packages: dict[str, Path]) -> None:
    scripts = "\n".join(query(packages["chdebugd"], "--scripts"))

    assert "if [ $1 -eq 0 ] && [ -d /run/systemd/system ]; then" in scripts
    assert "systemctl stop 'chdebugd-vm@*.service'" in scripts
