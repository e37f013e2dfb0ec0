"""The module and the patch for the guest's kernel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest_kit.conftest import SOURCES

PATCH = next(SOURCES.glob("kernel/*.patch"))


def test_the_module_builds_without_a_warning(tmp_path: Path) -> None:
    build_trees = sorted(Path("/lib/modules").glob("*/build"))
    assert build_trees, "install linux-headers-amd64 (packaging/deps.txt)"
    shutil.copytree(SOURCES / "kernel", tmp_path / "chdebug")
    command: list[str | Path] = [
        "make",
        "--silent",
        "-C",
        tmp_path / "chdebug",
        f"KDIR={build_trees[-1]}",
        "W=1",
    ]

    subprocess.run([*command, "KCFLAGS=-Werror"], check=True, capture_output=True)

    about = subprocess.run(
        ["modinfo", tmp_path / "chdebug/chdebug.ko"], check=True, capture_output=True, text=True
    ).stdout
    assert "on_load:" in about
    assert "on_panic:" in about


def test_the_patch_is_in_the_form_that_git_am_takes(tmp_path: Path) -> None:
    """`git mailinfo` reads it as a mail, `git apply` as a patch of two hunks to one file."""
    info = subprocess.run(
        ["git", "mailinfo", tmp_path / "message", tmp_path / "patch"],
        input=PATCH.read_text(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    stat = subprocess.run(
        ["git", "apply", "--numstat", tmp_path / "patch"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert "Subject: init: Mark the boot on I/O port 0x80" in info
    assert "Signed-off-by:" in (tmp_path / "message").read_text()
    assert stat == "4\t0\tinit/main.c\n"


@pytest.mark.parametrize("code", ["0x40", "0x41"])
def test_the_patch_has_the_values_of_cloud_hypervisors_kernel(code: str) -> None:
    assert PATCH.read_text().count(f"+\t\toutb({code}, 0x80);\n") == 1
