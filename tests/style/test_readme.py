"""README.md: every command is run somewhere, every link leads somewhere."""

from __future__ import annotations

import re

import pytest

from tests.docs.fences import PLACES, README, blocks, commands, outputs

ROOT = README.parent


def test_every_block_of_commands_names_the_place_that_runs_it() -> None:
    assert {place for place, _ in blocks()} <= set(PLACES)
    assert README.read_text().count("```sh") == len(blocks())


@pytest.mark.parametrize("place", PLACES)
def test_each_place_has_commands(place: str) -> None:
    assert commands(place)


def test_pictures_and_links_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_man_pages_that_it_names_are_there() -> None:
    pages = set(re.findall(r"`((?:org\.)?chdebug[\w.-]*)\((\d)\)`", README.read_text()))

    assert pages
    assert [p for p in pages if not (ROOT / f"packaging/man/{p[0]}.{p[1]}").exists()] == []


def test_lines_fit() -> None:
    lines = [line for line in README.read_text().splitlines() if not line.startswith("|")]
    code = {line for _, text in blocks() + outputs() for line in text.splitlines()}

    assert [line for line in lines if len(line) > 130 and line not in code] == []
