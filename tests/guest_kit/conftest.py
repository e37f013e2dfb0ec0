"""The guest kit, built and installed from its sources as packages do it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "packaging" / "guest"


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root that `make install` filled."""
    build, root = tmp_path_factory.mktemp("build") / "guest", tmp_path_factory.mktemp("kit")
    shutil.copytree(SOURCES, build)
    for target in (["clean"], ["install", f"DESTDIR={root}"]):
        subprocess.run(["make", "--silent", *target], cwd=build, check=True)
    return root


@pytest.fixture(scope="session")
def lib(kit: Path) -> Path:
    """Where the parts lie that no program finds by itself."""
    return kit / "usr/lib/chdebugd-guest"
