"""Object paths of VMs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chdebugd.object_path import vm_name, vm_path


def test_a_path_has_only_what_dbus_allows() -> None:
    assert vm_path("fw-0.a_b") == "/org/chdebugd1/vm/fw_2d0_2ea_5fb"
    assert vm_path("9lives9") == "/org/chdebugd1/vm/_39lives9"


@given(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", fullmatch=True))
def test_the_name_is_found_again(name: str) -> None:
    assert vm_name(vm_path(name)) == name
