"""The code map of the guest kit names every code that the kit writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chdebugd.trace.codemap import CodeMap
from tests.guest_kit.conftest import SOURCES

WRITES = re.compile(
    r"(?:chdebug-mark|chdebug_mark|outb 0x80|on_load =|on_panic =|INIT_CODE) (0x[0-9a-f]{2})\b"
    r"|outb\((0x[0-9a-f]{2}), 0x80\)"
)
FILES = sorted(path for path in SOURCES.rglob("*") if path.suffix in {".c", ".S", ".patch"})
FILES += sorted(SOURCES.glob("systemd/*.service")) + sorted(SOURCES.glob("dracut/mark-*"))
FILES += sorted(SOURCES.glob("initramfs-tools/init-*")) + sorted(SOURCES.glob("grub/*"))
MAN_PAGE = SOURCES.parent / "man/chdebug-mark.1"


def codes_in(path: Path) -> set[int]:
    """What the file writes to the port; 0x72 stands for a code of the user's own."""
    found = {int(a or b, 16) for a, b in WRITES.findall(path.read_text())}
    return found - {0x72}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_code_has_a_name(path: Path) -> None:
    names = CodeMap.load("chdebugd-guest").names

    assert codes_in(path) <= set(names)


def test_no_name_is_without_its_code() -> None:
    written = set().union(*map(codes_in, FILES))

    assert set(CodeMap.load("chdebugd-guest").names) == written


def test_the_man_page_lists_the_codes_of_a_guest() -> None:
    listed = {int(code, 16) for code in re.findall(r"\b0x[0-9a-f]{2}\b", MAN_PAGE.read_text())}

    of_firmware = {code for code in CodeMap.load("chdebugd-guest").names if code < 0x20}
    in_between = set(range(0x21, 0x2F))
    assert set(CodeMap.load("chdebugd-guest").names) - of_firmware - in_between <= listed
