"""chdebug-mark and its shell fallback: what they accept, and each way to the port.

They run in a user namespace, where ioperm is refused: the port of the host is never written.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

GOOD = ["0", "7", "64", "255", "0x0", "0x40", "0xff", "0XfF", "0x0a"]
BAD = ["", "256", "0x", "0x100", "010", "00", "-1", "+1", "a", "0xg", "1x", "x1", "0x1x", "99999"]
BAD += ["1 2", " 1", "0x00001"]
DEVICES = "mount -t tmpfs none /dev && : > /dev/null"
LOCKED_DOWN = "echo 'none [integrity] confidentiality'"


@pytest.fixture(params=["chdebug-mark", "dash chdebug-mark.sh", "busybox sh chdebug-mark.sh"])
def mark(request: pytest.FixtureRequest, kit: Path, lib: Path) -> str:
    """The command that makes marks, as shell words."""
    places = {"chdebug-mark": kit / "usr/bin", "chdebug-mark.sh": lib}
    *shell, program = request.param.split(" ")
    return " ".join([*shell, str(places[program] / program)])


def in_namespace(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where /dev is ours alone."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-euc", f"{DEVICES}\n{script}", "sh"]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False)


def written(script: str, device: Path, *words: str) -> bytes:
    """What a script wrote to a file that stands for a device."""
    device.write_bytes(b"")
    result = in_namespace(f"ln -s {device} /dev/{device.name}\n{script}", *words)
    assert (result.returncode, result.stderr) == (0, "")
    return device.read_bytes()


@pytest.mark.parametrize("word", GOOD)
def test_a_code_lands_at_offset_128_of_dev_port(mark: str, word: str, tmp_path: Path) -> None:
    data = written(f'{mark} "$@"', tmp_path / "port", word)

    assert data == bytes(128) + bytes([int(word, 0)])


@pytest.mark.parametrize("word", BAD)
def test_a_word_that_is_no_code_is_refused_before_any_mark(
    mark: str, word: str, tmp_path: Path
) -> None:
    (device := tmp_path / "port").write_bytes(b"")

    result = in_namespace(f'ln -s {device} /dev/port\n{mark} "$@"', "0x40", word)

    assert result.returncode == 2
    assert result.stderr.startswith("Usage: chdebug-mark")
    assert device.read_bytes() == b""


def test_no_code_at_all_is_wrong_usage(mark: str) -> None:
    result = in_namespace(mark)

    assert (result.returncode, result.stderr.split(" ")[0]) == (2, "Usage:")


def test_of_several_codes_the_last_is_written_last(mark: str, tmp_path: Path) -> None:
    assert written(f'{mark} "$@"', tmp_path / "port", "1", "2", "3")[128] == 3


def test_without_a_device_the_refusal_names_the_next_step(mark: str) -> None:
    result = in_namespace(f"{mark} 0x40")

    assert result.returncode == 1
    assert any(step in result.stderr for step in ("load the module chdebug", "root"))


def test_a_locked_down_kernel_is_named(kit: Path) -> None:
    lockdown = f"mount -t tmpfs none /sys && mkdir -p /sys/kernel/security && {LOCKED_DOWN}"

    result = in_namespace(
        f"{lockdown} > /sys/kernel/security/lockdown\n{kit}/usr/bin/chdebug-mark 0x40"
    )

    assert result.returncode == 1
    assert "locked down (Secure Boot)" in result.stderr
    assert "load the module chdebug, signed" in result.stderr


def test_the_module_serves_where_the_port_is_refused(kit: Path, tmp_path: Path) -> None:
    assert written(f"{kit}/usr/bin/chdebug-mark 0x41", tmp_path / "chdebug") == b"\x41"


def test_the_program_needs_no_library(kit: Path) -> None:
    program = kit / "usr/bin/chdebug-mark"

    headers = subprocess.run(
        ["readelf", "--wide", "--program-headers", "--dynamic", program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert program.stat().st_size < 4096
    assert "INTERP" not in headers
    assert "There is no dynamic section" in headers


def initramfs(root: Path, lib: Path) -> Path:
    """A root with the kit's archive in it; the file that stands for its /dev/port."""
    with (lib / "chdebug-mark.cpio").open("rb") as archive:
        subprocess.run(["cpio", "--quiet", "-i", "-D", root], stdin=archive, check=True)
    (root / "dev").mkdir()
    (port := root / "dev/port").write_bytes(b"")
    return port


def run_init(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--map-root-user", f"--root={root}", "/chdebug-init", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_as_chdebug_init_it_becomes_init_with_the_kernels_words(lib: Path, tmp_path: Path) -> None:
    port = initramfs(tmp_path, lib)
    shutil.copy(tmp_path / "chdebug-init", tmp_path / "init")  # as init it marks what it is told

    result = run_init(tmp_path, "0x49")

    assert (result.returncode, result.stderr) == (0, "")
    assert port.read_bytes()[128] == 0x49


def test_as_chdebug_init_it_marks_first_and_says_where_there_is_no_init(
    lib: Path, tmp_path: Path
) -> None:
    port = initramfs(tmp_path, lib)

    result = run_init(tmp_path)

    assert (result.returncode, result.stderr) == (1, "chdebug-init: this initramfs has no /init\n")
    assert port.read_bytes()[128] == 0x48
