"""Files that the daemon opens for a VM, where the host does not let it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPENS_A_DISK = """
import sys
from pathlib import Path
from chdebugd.control import FileRole
from chdebugd.errors import ChdebugdError
from chdebugd.files import FileOpener
from chdebugd.given import FileOption
option = FileOption(FileRole("disk", "disk", sys.argv[2] == "ro", "root"), sys.argv[1])
try:
    FileOpener(Path("/nowhere")).open_all((option,), [])
    print("opened")
except ChdebugdError as error:
    print(error.name, error)
"""
# Root may write what nobody may, unless it has no capabilities.
AS_A_USER = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def open_disk(image: str, mode: str, *around: str) -> str:
    """What becomes of it as a disk, by a command around the one that opens it."""
    if around:
        may = subprocess.run([*around, "true"], capture_output=True, text=True, check=False)
        if may.returncode:
            pytest.skip(f"this user may not: {may.stderr.strip()[-200:]}")
    command = [*around, sys.executable, "-c", OPENS_A_DISK, image, mode]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def open_read_only(directory: Path, mode: str) -> str:
    """What becomes of a disk in a directory that is mounted read-only, as units mount most."""
    image = directory / "disk"
    image.write_bytes(bytes(512))
    return open_disk(str(image), mode, "unshare", "--mount", "sh", "-c", READ_ONLY, str(directory))


def test_a_disk_on_a_read_only_mount_is_refused_with_a_way_out(tmp_path: Path) -> None:
    answer = open_read_only(tmp_path, "rw")

    assert answer.startswith("AccessDenied ")
    assert "put it under /var/lib/chdebugd, hand over a descriptor, or set 'readonly'" in answer


def test_a_read_only_disk_on_a_read_only_mount_is_opened(tmp_path: Path) -> None:
    assert open_read_only(tmp_path, "ro") == "opened\n"


def test_a_disk_that_may_not_be_written_is_refused_with_a_way_out(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(512))
    image.chmod(0o444)

    answer = open_disk(str(image), "rw", *AS_A_USER)

    assert answer.startswith("AccessDenied The daemon may not read and write")
    assert "let user chdebugd do it, set 'readonly', or hand over a descriptor" in answer
    assert open_disk(str(image), "ro", *AS_A_USER) == "opened\n"
