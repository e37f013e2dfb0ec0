"""The journal: each kind of entry has its text, and each field its place in the man page."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from tests.dbus.conftest import (  # noqa: F401 - fixtures
    MANAGER,
    Client,
    Daemon,
    broker,
    bus_address,
    daemon,
    file_with,
    story,
)
from tests.docs.test_man_pages import text_of
from tests.guests import RUN_FROM_NOWHERE, rom

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "units/chdebugd.catalog"
ALWAYS = {"VM", "VM_BOOT", "MESSAGE_ID"}
OF_AN_EVENT = {"COMPONENT", "CODE", "ELAPSED", "SEQ", "VCPU"}


def texts() -> dict[str, str]:
    """The catalog's texts by the id of their entries."""
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def posted() -> dict[str, set[str]]:
    """The fields that the code gives to each kind of entry, by the kind's name."""
    found: dict[str, set[str]] = {"EVENT": set(OF_AN_EVENT)}
    for path in (ROOT / "chdebugd").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call):
                kinds = re.findall(r"MessageId\.(\w+)", " ".join(map(ast.unparse, call.args)))
                fields = {each.arg for each in call.keywords if each.arg and each.arg.isupper()}
                for kind in kinds:
                    found.setdefault(kind, set()).update(fields)
    found["VM_FAILED"] |= found["VM_STOPPED"]
    # Entries of the daemon, which has no sink of the VM's own.
    found["RECOVERED"] |= {"RECOVERED", "LOST"}
    found["RING_LOST"] |= {"LAST_SEQ"}
    return found


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

    assert named - posted().get(kind.name, set()) - ALWAYS == set()


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


@pytest.mark.dbus
@pytest.mark.kvm
def test_each_field_of_a_real_boot_is_described(daemon: Daemon, tmp_path: Path) -> None:  # noqa: F811
    """A guest that ends well, one that names codes and is reset, one where KVM gives up."""

    @story
    async def boots(daemon: Daemon, client: Client) -> None:
        good = await client.start_vm("good", code_map=Variant("s", "cloud-hypervisor"))
        firmware = file_with(tmp_path, rom(RUN_FROM_NOWHERE))
        bad = await client.start_vm("bad", firmware=Variant("s", str(firmware)))
        await client.wait_state(good, "stopped")
        await client.wait_state(bad, "failed")
        await client.call(*MANAGER, "ListVMs")

    boots(daemon)

    page = text_of("org.chdebugd1.5").split(" JOURNAL ")[1]
    fields = {name for entry in daemon.journal.entries() for name in entry}
    assert fields >= OF_AN_EVENT | {"GUEST_RIP", "CODE_NAME"}
    assert {name for name in fields if not re.search(rf"\b{name}\b", page)} == set()
