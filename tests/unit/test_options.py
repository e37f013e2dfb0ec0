"""Options that are right, and how they travel; wrong ones are in tests/dbus/test_bad_input.py."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chdebugd.errors import InvalidNameError, InvalidOptionError, LimitExceededError
from chdebugd.given import Value, given_from_json
from chdebugd.limits import Limits
from chdebugd.options import VmOptions, check_name, parse_options

LIMITS = Limits(memory_per_vm=1 << 30, vcpus_per_vm=8)


def parse(**options: Value) -> VmOptions:
    return parse_options({key.replace("_", "-"): each for key, each in options.items()}, LIMITS)


def text(value: str) -> Value:
    return Value("s", value)


def test_no_options_are_the_demo_guest() -> None:
    options = parse()

    assert options.files == ()
    assert (options.request.cpus, options.request.memory) == (1, 512 << 20)
    assert options.request.on_full == "wait"


def test_every_option_finds_its_place() -> None:
    disk = {"path": text("/d"), "readonly": Value("b", True), "id": text("root")}
    net = {"tap": Value("h", 3), "mac": text("52:54:00:00:00:01")}
    options = parse(
        kernel=text("/k"),
        initrd=Value("h", 0),
        cmdline=text("quiet"),
        cpus=Value("u", 8),
        memory=Value("t", 1 << 30),
        disks=Value("aa{sv}", [disk]),
        net=Value("aa{sv}", [net]),
        rng=Value("b", True),
        serial=text("file:/s"),
        debug_console=text("pty"),
        firmware_debug=text("journal"),
        log_file=text("a.log"),
        log_level=text("info"),
        code_map=text("u-boot"),
        on_full=text("drop"),
    )

    request = options.request
    assert (request.cpus, request.memory, request.cmdline) == (8, 1 << 30, "quiet")
    assert (request.serial, request.debug_console) == ("file", "pty")
    assert (request.firmware_debug, request.log_level) == ("journal", "info")
    assert (request.code_map, request.on_full, request.rng) == ("u-boot", "drop", True)
    files = {file.role.role: file for file in options.files}
    assert files.keys() == {"kernel", "initrd", "log-file", "serial", "disk", "tap"}
    assert (files["kernel"].path, files["initrd"].path) == ("/k", None)
    assert (files["disk"].role.id, files["disk"].role.readonly) == ("root", True)
    assert (files["tap"].fd_index, files["tap"].role.mac) == (3, "52:54:00:00:00:01")
    assert not files["log-file"].role.readonly


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ({}, False),
        ({"log_file": text("a.log")}, False),
        ({"serial": text("file:a.txt")}, False),
        ({"firmware": Value("h", 0)}, False),
        ({"log_file": text("/a.log")}, True),
        ({"log_file": text("../a.log")}, True),
        ({"serial": text("file:/a.txt")}, True),
        ({"firmware": text("fw")}, True),
        ({"disks": Value("aa{sv}", [{"path": text("d")}])}, True),
    ],
)
def test_what_lies_beside_the_log_directory_needs_a_privilege(
    option: dict[str, Value], names: bool
) -> None:
    assert parse(**option).names_paths is names


def test_options_survive_json() -> None:
    disk = {"path": text("/d"), "readonly": Value("b", True)}
    options = parse(cmdline=text("ä\n"), disks=Value("aa{sv}", [disk]), cpus=Value("u", 2))

    again = parse_options(given_from_json(json.loads(json.dumps(options.to_json()))), LIMITS)

    assert again == options


@pytest.mark.parametrize(("key", "kind"), [("cpus", "u"), ("memory", "t")])
def test_a_limit_is_named_where_it_is_passed(key: str, kind: str) -> None:
    with pytest.raises(LimitExceededError, match=rf"'{key}' is .* limit is"):
        parse(**{key: Value(kind, 1 << 31)})


KINDS = st.sampled_from(["s", "u", "t", "b", "h", "aa{sv}", "as", "v"])
SCALARS = st.one_of(st.text(max_size=20), st.integers(0, 1 << 64), st.booleans())
KEYS = st.sampled_from(
    "kernel initrd cmdline firmware cpus memory rng serial log-file on-full net".split()
)


@given(st.dictionaries(KEYS | st.text(max_size=10), st.builds(Value, KINDS, SCALARS), max_size=4))
def test_scalars_of_any_kind_are_kept_or_refused(options: dict[str, Value]) -> None:
    usable = {
        key: each
        for key, each in options.items()
        if (each.signature in "so") == isinstance(each.value, str) and each.signature != "aa{sv}"
    }
    with contextlib.suppress(InvalidOptionError, LimitExceededError):
        assert parse_options(usable, LIMITS).given == usable


@given(st.text(max_size=80))
def test_a_name_is_safe_as_a_file_and_as_a_unit(name: str) -> None:
    try:
        check_name(name)
    except InvalidNameError:
        return
    assert name.isascii()
    assert 1 <= len(name) <= 64
    assert not name.startswith(".")
    assert not set(name) & set("/\\:@ \n\0%")
