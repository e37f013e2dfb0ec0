"""The D-Bus object path of a VM, and the way back."""

from __future__ import annotations

import re

MANAGER_PATH = "/org/chdebugd1"
VM_PATH = MANAGER_PATH + "/vm/"


def vm_path(name: str) -> str:
    """The object path of a VM."""
    return VM_PATH + encode(name)


def encode(name: str) -> str:
    """`name` as the last part of an object path, as sd_bus_path_encode(3) has it.

    Every byte but ASCII letters and digits is _XX, a leading digit too.
    """
    return "".join(
        char
        if char.isascii() and (char.isalpha() or (at > 0 and char.isdigit()))
        else f"_{ord(char):02x}"
        for at, char in enumerate(name)
    )


def vm_name(path: str) -> str:
    """The name that `vm_path` made the path of."""
    escaped = path.removeprefix(VM_PATH)
    return re.sub("_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), escaped)
