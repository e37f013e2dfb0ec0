"""One version everywhere."""

from __future__ import annotations

import re

import pytest

from chdebugd import __version__
from tests.packages.conftest import ROOT, VERSION

PLACES = {
    "pyproject.toml": r'^version = "(.+)"$',
    "packaging/debian/changelog": r"\Achdebugd \((.+)\)",
    "packaging/guest/Makefile": r"^VERSION = (.+)$",
    "packaging/guest/kernel/dkms.conf": r'^PACKAGE_VERSION="(.+)"$',
    "packaging/rpm/chdebugd.spec": r"^Version: +(.+)$",
    "NEWS.md": r"^## (\d\S*)",
}


@pytest.mark.parametrize("place", PLACES)
def test_each_place_has_the_same_version(place: str) -> None:
    found = re.search(PLACES[place], (ROOT / place).read_text(), re.MULTILINE)

    assert found
    assert found[1] == __version__ == VERSION
