"""Imports go one way, and each outside library comes in by its own door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "chdebugd"

# Top-level modules of VM processes; the daemon's are all others.
VM_PROCESS = {
    "vm_entry",
    "vm_process",
    "vm_life",
    "vm_loop",
    "vm_sinks",
    "vm_equipment",
    "text_output",
}
VM_PROCESS |= {"vm_entries", "halt_watch", "exit_cost"}
SHARED = {"control", "counts", "disk_lock", "errors", "state", ""}
VMM_NEEDS = {"errors", "trace.ring"}  # beside vmm itself
TRACE_NEEDS: set[str] = set()
DAEMON_NEEDS_OF_VMM = {"vmm.outcome"}
CTL_NEEDS = {"trace.codemap", "trace.event", "trace.journal", "object_path", "dbus_library", ""}

DOORS = {
    "dbus_next": {"dbus_library"},
    "systemd": {"systemd_notify", "trace.journal_reader"},
    "cffi": {"vmm.kvm_build", "vmm.virtio.engine_build", "trace.ring_build"},
    "_cffi_backend": set(),
    "threading": {
        "trace.journal_sink",
        "vmm.bus",
        "vmm.devices.power",
        "vmm.devices.serial",
        "vmm.gate",
        "vmm.machine",
        "vmm.vcpu",
        "vmm.virtio.function",
    },
    "chdebugd.vmm._kvm": {"vmm.kvm", "vmm.vcpu_fd"},
    "chdebugd.vmm.virtio._engine": {"vmm.virtio.engine"},
    "chdebugd.trace._ring": {"trace.ring"},
}


def module_name(path: Path) -> str:
    """`trace.ring` for chdebugd/trace/ring.py; the package itself is empty."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts).removesuffix("__init__").rstrip(".")


SOURCES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative name"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name.removeprefix("chdebugd.") in SOURCES}
            yield from modules or {node.module or ""}


OURS = {
    name: {
        each.removeprefix("chdebugd").lstrip(".")
        for each in imports(path)
        if each.split(".")[0] == "chdebugd"
    }
    for name, path in SOURCES.items()
}


def layer(name: str) -> str:
    """vmm, trace, ctl, vm_process or daemon."""
    head = name.split(".")[0]
    if head in ("vmm", "trace", "ctl"):
        return head
    return "vm_process" if head in VM_PROCESS else "daemon"


@pytest.mark.parametrize("library", DOORS)
def test_a_library_enters_at_its_door_only(library: str) -> None:
    users = {
        name
        for name, path in SOURCES.items()
        if any(each == library or each.startswith(library + ".") for each in imports(path))
    }

    assert users <= DOORS[library]


def test_vm_machines_and_traces_know_no_asyncio() -> None:
    for name, path in SOURCES.items():
        if layer(name) in ("vmm", "trace", "vm_process"):
            assert not {"asyncio", "logging"} & set(imports(path)), name


def test_imports_have_no_cycle() -> None:
    TopologicalSorter(OURS).prepare()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_go_one_way(name: str) -> None:
    for used in OURS[name] - {name}:
        match layer(name), layer(used):
            case ("vmm", "vmm") | ("trace", "trace") | ("ctl", "ctl"):
                continue
            case "vmm", _:
                assert used in VMM_NEEDS
            case "trace", _:
                assert used in TRACE_NEEDS
            case "ctl", _:
                assert used in CTL_NEEDS
            case "vm_process", ("vm_process" | "vmm" | "trace"):
                continue
            case "vm_process", _:
                assert used in SHARED
            case "daemon", "vmm":
                assert used in DAEMON_NEEDS_OF_VMM
            case "daemon", layer_used:
                assert layer_used in ("daemon", "trace")


def test_faces_are_used_by_faces_and_the_daemon_alone() -> None:
    """`X_dbus.py` may import `X.py`, never the other way."""
    for name, used in OURS.items():
        if not name.endswith("_dbus") and name != "daemon":
            assert not {each for each in used if each.endswith("_dbus")}, name
