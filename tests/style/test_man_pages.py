"""The man pages: clean to both formatters, and complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from chdebugd.control import StartRequest
from chdebugd.errors import ChdebugdError
from chdebugd.given import Value
from chdebugd.limits import Limits
from chdebugd.options import KNOWN, parse_options
from chdebugd.state import State
from chdebugd.trace.event import COMPONENT_OF
from chdebugd.trace.journal import MessageId
from chdebugd.vmm.outcome import Result

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "packaging/man").glob("*.[1-8]"))
IDS = [page.name for page in PAGES]
FACES = sorted((ROOT / "dbus").glob("*.xml"))
EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"
SAYS = {"true": "", "const": ", const", "false": ", no signal"}


def text_of(name: str) -> str:
    """A page as a reader sees it, all white space as one blank."""
    page = ROOT / "packaging/man" / name
    rendered = subprocess.run(
        ["mandoc", "-Tascii", "-Owidth=500", page], check=True, capture_output=True, text=True
    ).stdout
    return " ".join(re.sub(".\b", "", rendered).split())


@pytest.fixture(scope="module")
def reference() -> str:
    return text_of("org.chdebugd1.5")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_mandoc_finds_no_fault(page: Path) -> None:
    result = subprocess.run(["mandoc", "-Tlint", page], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_groff_finds_no_fault(page: Path) -> None:
    command: list[str | Path] = [
        "man",
        "--warnings",
        "--encoding=UTF-8",
        "--local-file",
        "-Tutf8",
        "-Z",
        page,
    ]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}

    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    assert result.stderr == ""


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_pages_of_ours_that_are_referred_to_exist(page: Path) -> None:
    ours = {f"{path.stem}({path.suffix[1:]})" for path in PAGES}
    named = re.findall(r"\b((?:org\.)?chdebug[\w.-]*\([1-8]\))", text_of(page.name))

    assert set(named) <= ours


# D-Bus


def _signature(member: ElementTree.Element, direction: str) -> str:
    found = [arg for arg in member.iter("arg") if arg.get("direction", "in") == direction]
    return ", ".join(f"{arg.get('type')} {arg.get('name')}" for arg in found)


def _line(member: ElementTree.Element) -> str:
    """A member of an interface as the page writes it."""
    if member.tag == "property":
        emits = {a.get("name"): a.get("value") for a in member.iter("annotation")}[EMITS]
        return f"{member.get('name')} ({member.get('type')}{SAYS[str(emits)]})"
    results = _signature(member, "out")
    arrow = f" -> {results}" if results else ""
    return f"{member.get('name')}({_signature(member, 'in')}){arrow}"


def members() -> Iterator[str]:
    for path in FACES:
        for interface in ElementTree.parse(path).iter("interface"):
            yield from (_line(member) for member in interface if member.tag != "annotation")


@pytest.mark.parametrize("member", members())
def test_each_member_of_the_bus_is_described(reference: str, member: str) -> None:
    assert f"{member} " in reference


def test_no_member_is_described_that_does_not_exist(reference: str) -> None:
    described = re.findall(
        r"(?<!\w)[A-Z]\w+\((?:[a-z]{1,6}|a\S+) \w+.*?\)(?: -> \S+ \w+)?", reference
    )
    known = set(members())

    assert [line for line in described if line not in known] == []


@pytest.mark.parametrize("error", ["Failed", *(e.name for e in ChdebugdError.__subclasses__())])
def test_each_error_is_described(reference: str, error: str) -> None:
    errors = reference.split(" ERRORS ")[1].split(" JOURNAL ")[0]

    assert f" {error} " in errors


@pytest.mark.parametrize("word", [*State, *Result, *dict.fromkeys(COMPONENT_OF)])
def test_each_state_result_and_component_is_named(reference: str, word: str) -> None:
    assert re.search(rf"\b{word}\b", reference)


# Options


@pytest.mark.parametrize("key", KNOWN.split())
def test_each_option_is_described_with_its_type(reference: str, key: str) -> None:
    options = reference.split(" OPTIONS ")[1].split(" COMPONENTS ")[0]

    [types] = re.findall(rf" {key} \(([^),]+)", options)
    for each in types.split(" or "):
        assert _type_is_taken(key, each)


def _type_is_taken(key: str, signature: str) -> bool:
    """Whether nothing is wrong about the type; much may be about a value of 0 or nothing."""
    empty: dict[str, object] = {"s": "", "h": 0, "u": 1, "t": 4096, "b": False, "aa{sv}": []}
    given = {key: Value(signature, empty[signature])}
    try:
        parse_options(given, Limits(memory_per_vm=1 << 40))
    except ChdebugdError as error:
        return "type" not in str(error)
    return True


def test_defaults_are_the_true_ones(reference: str) -> None:
    stated = dict(re.findall(r" ([a-z-]+) \([a-z{} ]+, default (\w+)\)", reference))

    true = {key.replace("_", "-"): str(value) for key, value in StartRequest()._asdict().items()}
    assert {key: true[key].lower() for key in stated if key in KNOWN.split()} == {
        key: value for key, value in stated.items() if key in KNOWN.split()
    }
    assert "memory" in stated


# Journal


@pytest.mark.parametrize("kind", MessageId)
def test_each_kind_of_entry_is_described(reference: str, kind: MessageId) -> None:
    assert kind.value in reference


def test_the_daemons_options_are_described() -> None:
    command = [sys.executable, "-m", "chdebugd", "--help"]
    help_text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    page = text_of("chdebugd.8")

    options = set(re.findall(r"--[a-z-]+", help_text))
    assert options == set(re.findall(r"--[a-z-]+", page))


def test_limits_are_described_with_their_defaults() -> None:
    page = text_of("chdebugd.conf.5")

    stated = dict(re.findall(r" ([a-z-]+) \((\d+)\)", page.split(" LIMITS")[1]))
    assert stated == {key: str(value) for key, value in Limits().to_dict().items()}
