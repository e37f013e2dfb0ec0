"""What packages are built from: the files that git knows or would take."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "0.1.0"


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """chdebugd-VERSION.tar.gz, everything in a folder of that name."""
    target = tmp_path_factory.mktemp("source") / f"chdebugd-{VERSION}.tar.gz"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    there = b"\0".join(name for name in listed.split(b"\0") if (ROOT / name.decode()).is_file())
    rename = f"--transform=s,^,chdebugd-{VERSION}/,S"  # S: links lead where they did
    command = ["tar", "--create", "--gzip", "--null", "--files-from=-", rename, f"--file={target}"]
    subprocess.run(command, cwd=ROOT, check=True, input=there)
    return target
