"""chdebugctl(1) tells of every verb, every option and every exit status, with examples."""

from __future__ import annotations

import re
import subprocess

import pytest

from chdebugd.ctl.errors import ExitStatus
from tests.ctl.test_completions import VERBS, options
from tests.dbus.conftest import ROOT

PAGE = ROOT / "packaging" / "man" / "chdebugctl.1"


def rendered() -> str:
    done = subprocess.run(
        ["mandoc", "-Tascii", "-Owidth=200", PAGE], check=True, capture_output=True, text=True
    )
    return re.sub(".\b", "", done.stdout)


TEXT = rendered()
SECTIONS = dict(re.findall(r"^([A-Z][A-Z ]+)\n(.*?)(?=^[A-Z]|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def about(verb: str) -> str:
    """The part of the page on a verb."""
    text = SECTIONS["VERBS FOR VMS"] + SECTIONS["VERBS FOR BOOTS"]
    found = re.search(rf"^   {verb}\b.*?(?=^   [a-z]|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{verb} is missing"
    return found[0]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_told_of_with_all_its_options(verb: str) -> None:
    shared = options("list")
    inherited = options("boot") if verb == "bench" else set()

    told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", about(verb)))

    own = options(verb) - shared - inherited
    assert own <= told


@pytest.mark.parametrize("option", sorted(options("list") | {"--version"}))
def test_an_option_of_all_verbs_is_told_of(option: str) -> None:
    assert re.search(rf"(?<![\w-]){option}\b", SECTIONS["OPTIONS"])


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_an_example(verb: str) -> None:
    assert re.search(rf"chdebugctl (-H \S+ )?{verb}\b", SECTIONS["EXAMPLES"])


def test_the_exit_statuses_are_told() -> None:
    told = {int(number) for number in re.findall(r"^ +(\d+) ", SECTIONS["EXIT STATUS"], re.M)}

    assert told == set(ExitStatus)


def test_the_help_of_each_verb_is_shown() -> None:
    for parser in VERBS.values():
        assert parser.description
        assert "chdebugctl(1)" in parser.format_help()
