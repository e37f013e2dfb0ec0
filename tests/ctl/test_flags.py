"""What the command line says, taken apart."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chdebugd.ctl.awaited import awaited_codes
from chdebugd.ctl.boot import made_up_name
from chdebugd.ctl.boot_finder import VM, VM_AND_NUMBER
from chdebugd.ctl.boots import boots_of
from chdebugd.ctl.errors import CtlError, UsageError
from chdebugd.ctl.flag_values import (
    parse_cpus,
    parse_memory,
    parse_rng,
    parse_switch,
    split_words,
)
from chdebugd.ctl.journal import _text
from chdebugd.ctl.mark_filter import parse_code
from chdebugd.ctl.tap import open_tap
from chdebugd.options import check_name
from chdebugd.trace.codemap import CodeMap
from tests.ctl.conftest import Ctl
from tests.guests import SHUTDOWN, mark, rom


@pytest.mark.parametrize(
    ("text", "count"), [("boot=4", 4), ("4", 4), ("boot=2,max=2", 2), ("max=3", 3)]
)
def test_cpus(text: str, count: int) -> None:
    assert parse_cpus(text) == count


@pytest.mark.parametrize("text", ["boot=0", "boot=x", "boot=-1", "", "boot=1,max=2", "boots=1"])
def test_wrong_cpus(text: str) -> None:
    with pytest.raises(UsageError, match="--cpus"):
        parse_cpus(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("size=1024M", 1 << 30),
        ("1G", 1 << 30),
        ("size=512k", 1 << 19),
        ("4096", 4096),
        ("2GiB", 2 << 30),
    ],
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["size=", "1.5G", "-1M", "0", "size=1M,shared=on", "16777216T"])
def test_wrong_memory(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_memory(text)


def test_switches_words_and_sources() -> None:
    assert [parse_switch("-x", "y", text) for text in ("on", "off", "true")] == [True, False, True]
    assert split_words("-x", "a=1,b=c=d", known=("a", "b")) == {"a": "1", "b": "c=d"}
    parse_rng("src=/dev/urandom")
    for text in ("a=1,a=2", "a", "=1", "a="):
        with pytest.raises(UsageError, match="^-x: "):
            split_words("-x", text, known=("a",))
    with pytest.raises(UsageError, match="must be on or off"):
        parse_switch("-x", "y", "maybe")


@given(st.text(max_size=30))
def test_no_flag_value_is_more_than_refused(text: str) -> None:
    for parse in (parse_cpus, parse_memory, parse_rng, parse_code):
        with contextlib.suppress(UsageError):
            parse(text)


@given(st.integers(0, 255), st.sampled_from(["{}", "{:#x}", "{:#04X}", "{:#o}"]))
def test_a_code_is_read_in_any_base(code: int, form: str) -> None:
    assert parse_code(form.format(code)) == code


@given(st.text(max_size=80))
def test_a_made_up_name_is_a_vms_name(image: str) -> None:
    check_name(made_up_name(f"/boot/{image}"))


def test_a_mark_is_awaited_by_code_name_stage_or_component() -> None:
    codes = CodeMap("m", {0x80: "menu", 0x81: "chosen"}, {0x81: "Bootloader"}, ())

    assert awaited_codes("0x80", codes) == {0x80}
    assert awaited_codes("Menu", codes) == {0x80}
    assert awaited_codes("Kernel", None) == set(range(0x40, 0x60))
    assert awaited_codes("bootloader", codes) == {*range(0x20, 0x40), 0x81}
    with pytest.raises(UsageError):
        awaited_codes("menu", None)


def test_a_boot_is_named_by_its_vm_and_a_number() -> None:
    found = VM_AND_NUMBER.fullmatch("fw-0.1:-12")

    assert found is not None
    assert (found["vm"], found["number"]) == ("fw-0.1", "-12")
    assert VM_AND_NUMBER.fullmatch("fw0:*")
    assert not VM_AND_NUMBER.fullmatch("fw0:")
    assert VM.fullmatch("fw0")
    assert not VM.fullmatch(".fw0")


# The journal


def test_fields_come_as_text_bytes_or_lists() -> None:
    assert _text("a") == "a"
    assert _text([104, 105]) == "hi"
    assert _text([0xFF]) == "\\xff"
    assert _text(["first", "last"]) == "last"
    assert _text(None) == ""


FIELDS = st.sampled_from(
    "MESSAGE_ID VM VM_BOOT CODE ELAPSED_NSEC SEQ VCPU PHASE START_NSEC CPUS RESULT DROPPED".split()
)
KINDS = st.sampled_from([f"a1c7b8d2e0f74b7f9d5f3c6e80de{kind:04x}" for kind in range(1, 15)])


@given(st.lists(st.dictionaries(FIELDS, KINDS | st.text(max_size=4), max_size=12), max_size=12))
def test_entries_that_make_no_sense_make_no_boot_and_no_error(
    entries: list[dict[str, str]],
) -> None:
    for boot in boots_of(entries):
        assert boot.vm is not None
        assert all(0 <= mark.code <= 255 for mark in boot.marks)


# Taps


@pytest.fixture
def tap() -> Iterator[str]:
    """The name of a tap device of ours."""
    name = f"chd{uuid.uuid4().hex[:8]}"
    make = ["ip", "tuntap", "add", name, "mode", "tap"]
    if subprocess.run(make, capture_output=True, check=False).returncode:
        pytest.skip("this host gives no tap device")
    yield name
    subprocess.run(["ip", "link", "delete", name], check=True)


def test_a_tap_is_attached(tap: str) -> None:
    fd = open_tap(tap)

    with pytest.raises(CtlError, match=f"Cannot use tap '{tap}'.*ip tuntap add"):
        open_tap(tap)  # it is busy
    os.close(fd)


@pytest.mark.kvm
@pytest.mark.dbus
def test_a_vm_gets_tap_disk_and_random_numbers(ctl: Ctl, tap: str) -> None:
    (ctl.directory / "fw").write_bytes(rom(mark(0x42) + SHUTDOWN))
    (ctl.directory / "disk").write_bytes(bytes(1 << 20))
    words = ["--firmware=fw", "--net", f"tap={tap},mac=52:54:00:12:34:56", "--rng"]

    shown = ctl.run("boot", *words, "--disk", "path=disk,readonly=on,id=root").stdout

    assert "0x42" in shown
