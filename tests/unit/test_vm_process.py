"""The command line of a VM process, and what its cold start must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chdebugd.vm_entry import Arguments, parse_arguments

# Each costs every start of a VM 3 to 40 ms, and every VM its memory: use NamedTuple for records,
# os.path for paths, and import inside the function what few VMs need.
TOO_SLOW = {
    "argparse",
    "asyncio",
    "dataclasses",
    "dbus_next",
    "inspect",
    "logging",
    "pathlib",
    "statistics",
    "subprocess",
    "tomllib",
    "traceback",
}


def test_a_vm_process_loads_nothing_slow() -> None:
    code = "import sys; old = set(sys.modules); import chdebugd.vm_entry, chdebugd.vm_process; "
    code += "print(*set(sys.modules) - old)"

    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path = {sys.path!r}; {code}"],
        check=True,
        capture_output=True,
        text=True,
    )

    assert "chdebugd.vm_life" in loaded.stdout.split()
    assert not TOO_SLOW & set(loaded.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ["--runtime-dir", "/run/x", "--ready-fd", "3", "fw0"],
        ["fw0", "--runtime-dir=/run/x", "--ready-fd=3"],
        ["--runtime-dir=/run/x", "--ready-fd=3", "--", "fw0"],
    ],
)
def test_arguments_come_in_any_order(words: list[str]) -> None:
    assert parse_arguments(words) == Arguments("fw0", "/run/x", 3)


def test_a_name_is_enough() -> None:
    assert parse_arguments(["--", "fw0"]) == Arguments("fw0", "/run/chdebugd", -1)


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--ready-fd", "x", "a"], ["--what", "a"]])
def test_wrong_arguments_are_told(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="give one name"):
        parse_arguments(words)
