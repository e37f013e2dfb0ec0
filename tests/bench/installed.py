"""The package in a real systemd, as users have it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from container.container import Container
from container.debian import debian_root

from tests.bench.stage import ROOT


def installed() -> Container:
    """A Debian with the package of this tree."""
    with tempfile.TemporaryDirectory() as target:
        subprocess.run([ROOT / "packaging" / "build-deb", target], check=True, capture_output=True)
        [package] = Path(target).glob("chdebugd_*.deb")
        container = Container(debian_root("bookworm", package))
        container.install(package)
    return container
