"""What the kit puts into a guest's boot, as the tools of each step see it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest_kit.conftest import SOURCES

SCRIPTS = [
    "usr/lib/chdebugd-guest/chdebug-mark.sh",
    "usr/lib/chdebugd-guest/append-mark",
    "usr/share/initramfs-tools/hooks/chdebug-mark",
    "usr/share/initramfs-tools/scripts/init-top/chdebug-mark",
    "usr/share/initramfs-tools/scripts/init-bottom/chdebug-mark",
    "etc/grub.d/01_chdebug",
    "usr/lib/dracut/modules.d/90chdebug-mark/mark-begin.sh",
    "usr/lib/dracut/modules.d/90chdebug-mark/mark-end.sh",
    "usr/lib/dracut/modules.d/90chdebug-mark/module-setup.sh",
]
NAMESPACE = ("unshare", "--mount", "sh", "-euc")
BEFORE = {"basic": "sysinit", "network-online": "basic", "multi-user": "basic"}
CODES = {"sysinit": 0x61, "basic": 0x62, "network-online": 0x63, "multi-user": 0x64}


def output(*command: str | Path) -> str:
    """What a command prints; it must end well."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_may_be_run_and_are_clean(kit: Path, script: str) -> None:
    assert (kit / script).stat().st_mode & 0o111 == 0o111
    assert output("shellcheck", kit / script) == ""


def test_grub_understands_the_snippets(kit: Path, tmp_path: Path) -> None:
    (snippet := tmp_path / "grub.cfg").write_text(output("sh", kit / "etc/grub.d/01_chdebug"))
    entry = kit / "usr/share/doc/chdebugd-guest/examples/marks.cfg"

    assert output("grub-script-check", snippet) == ""
    assert output("grub-script-check", entry) == ""


def test_systemd_finds_no_fault_in_the_units(kit: Path, tmp_path: Path) -> None:
    """A ready mark for a service and a mark of its own stand for all instances of the templates."""
    units = tmp_path / "units"
    shutil.copytree(kit / "usr/lib/systemd/system", units)
    for path in units.iterdir():
        path.write_text(path.read_text().replace("/usr/bin/", f"{kit}/usr/bin/"))
    (units / "app.service").write_text("[Service]\nExecStart=true\n")
    names = [path for path in units.iterdir() if "@." not in path.name]
    names += [units / "chdebug-mark-ready@app.service", units / "chdebug-mark@0x72.service"]

    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
    )

    assert (result.returncode, _about_us(result.stderr)) == (0, [])


def _about_us(messages: str) -> list[str]:
    return [line for line in messages.splitlines() if "chdebug" in line]


@pytest.mark.parametrize("target", CODES)
def test_each_target_has_its_code(kit: Path, target: str) -> None:
    unit = (kit / f"usr/lib/systemd/system/chdebug-mark-{target}.service").read_text()

    earlier = [f"chdebug-mark-{BEFORE[target]}.service"] if target in BEFORE else []
    after = re.findall(r"^After=(.+)$", unit, re.MULTILINE)
    assert [each.split() for each in after] == [[f"{target}.target", *earlier]]
    assert f"WantedBy={target}.target\n" in unit
    assert re.findall(r"^ExecStart=-/usr/bin/chdebug-mark (\S+)$", unit, re.MULTILINE) == [
        f"{CODES[target]:#x}"
    ]


def test_initramfs_tools_packs_the_program_and_runs_its_scripts(kit: Path, tmp_path: Path) -> None:
    """mkinitramfs with the kit's files as an administrator's own."""
    config = tmp_path / "config"
    shutil.copytree("/etc/initramfs-tools", config)
    shutil.copytree(kit / "usr/share/initramfs-tools", config, dirs_exist_ok=True)
    hook = config / "hooks/chdebug-mark"
    hook.write_text(
        hook.read_text().replace("/usr/bin/chdebug-mark /", f"{kit}/usr/bin/chdebug-mark /")
    )
    image = tmp_path / "initrd.img"
    kernel = "mount -t tmpfs none /boot && echo CONFIG_RD_GZIP=y > /boot/config-0-none"

    output(*NAMESPACE, f"{kernel}\nmkinitramfs -c gzip -d {config} -o {image} 0-none")

    unpacked = tmp_path / "unpacked"
    output("unmkinitramfs", image, unpacked)
    root = unpacked / "main" if (unpacked / "main").is_dir() else unpacked
    program = (kit / "usr/bin/chdebug-mark").read_bytes()
    assert (root / "usr/bin/chdebug-mark").read_bytes() == program
    for stage in ("init-top", "init-bottom"):
        assert "chdebug-mark" in (root / "scripts" / stage / "ORDER").read_text()


def test_the_last_mark_of_the_initramfs_comes_after_udev(kit: Path) -> None:
    script = kit / "usr/share/initramfs-tools/scripts/init-bottom/chdebug-mark"

    assert output(script, "prereqs") == "udev\n"


def test_dracut_packs_the_program_and_its_hooks(kit: Path, tmp_path: Path) -> None:
    """In a mount namespace where the kit lies over /usr."""
    image = tmp_path / "initrd.img"
    script = f"""
        mkdir {tmp_path}/upper && mount -t tmpfs none {tmp_path}/upper
        mkdir {tmp_path}/upper/files {tmp_path}/upper/work
        mount -t overlay overlay -o lowerdir={kit}/usr:/usr,upperdir={tmp_path}/upper/files,\
workdir={tmp_path}/upper/work /usr
        dracut --quiet --no-kernel --no-hostonly --modules chdebug-mark {image}
        lsinitrd {image}
    """

    listing = output(*NAMESPACE, script)

    assert "usr/bin/chdebug-mark\n" in listing
    assert "lib/dracut/hooks/cmdline/01-mark-begin.sh\n" in listing
    assert "lib/dracut/hooks/pre-pivot/99-mark-end.sh\n" in listing


def test_the_archive_is_the_same_each_time(lib: Path, tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "again")
    output("make", "-C", tmp_path / "again", "--silent", "clean", "chdebug-mark.cpio")

    assert (tmp_path / "again/chdebug-mark.cpio").read_bytes() == (
        lib / "chdebug-mark.cpio"
    ).read_bytes()


@pytest.mark.parametrize("size", [512, 513, 514, 515])
def test_the_archive_is_appended_where_the_kernel_looks_for_it(
    lib: Path, tmp_path: Path, size: int
) -> None:
    """The kernel takes a further archive at a multiple of four only (init/initramfs.c)."""
    (initrd := tmp_path / "initrd").write_bytes(b"x" * size)
    archive = lib / "chdebug-mark.cpio"

    output(lib / "append-mark", initrd, tmp_path / "out")

    data = (tmp_path / "out").read_bytes()
    assert data == b"x" * size + bytes(-size % 4) + archive.read_bytes()
