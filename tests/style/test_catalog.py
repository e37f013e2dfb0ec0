"""The catalog: each kind of entry has its text, and what it names is in the man page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from chdebugd.trace.journal import MessageId
from tests.style.test_man_pages import text_of

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "units/chdebugd.catalog"
ALWAYS = {"VM", "VM_BOOT", "MESSAGE_ID"}


def texts() -> dict[str, str]:
    """The catalog's texts by the id of their entries."""
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def described(kind: MessageId) -> set[str]:
    """The words in capitals that the man page says of this kind of entry."""
    about = text_of("org.chdebugd1.5").split(kind.value)[1].split("a1c7b8d2")[0]
    return set(re.findall(r"\b[A-Z_]{3,}\b", about))


def test_each_kind_of_entry_has_one_text_and_each_text_a_kind() -> None:
    assert len(CATALOG.read_text().split("\n-- ")) - 1 == len(MessageId)
    assert set(texts()) == set(MessageId)


@pytest.mark.parametrize("kind", MessageId)
def test_a_text_has_its_heads_and_fits_a_terminal(kind: MessageId) -> None:
    text = texts()[kind]

    assert re.match(r"\nSubject: .+\nDefined-By: chdebugd\nDocumentation: man:\S+\n\n\S", text)
    assert max(len(line) for line in text.splitlines()) <= 76


@pytest.mark.parametrize("kind", MessageId)
def test_a_text_names_fields_that_its_entries_have(kind: MessageId) -> None:
    named = set(re.findall(r"@(\w+)@", texts()[kind]))

    assert named - described(kind) - ALWAYS == set()


def test_systemd_reads_the_catalog(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    (place / CATALOG.name).write_text(CATALOG.read_text())
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    journalctl = ["journalctl", f"--root={tmp_path}"]

    subprocess.run([*journalctl, "--update-catalog"], check=True, capture_output=True)

    listed = subprocess.run(
        [*journalctl, "--list-catalog"], check=True, capture_output=True, text=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(MessageId)
