"""The journal of real boots: each field has its place in the man page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import (  # noqa: F401 - fixtures
    MANAGER,
    Client,
    Daemon,
    FakeJournald,
    broker,
    bus_address,
    daemon,
    file_with,
    story,
)
from tests.guests import RUN_FROM_NOWHERE, rom
from tests.style.test_man_pages import text_of

EXPECTED = {"COMPONENT", "CODE", "ELAPSED", "SEQ", "VCPU", "CODE_NAME", "GUEST_RIP"}


def fields(journal: FakeJournald) -> set[str]:
    return {name for entry in journal.entries() for name in entry}


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
        await client.wait_for(lambda: fields(daemon.journal) >= EXPECTED)

    boots(daemon)

    page = text_of("org.chdebugd1.5").split(" JOURNAL ")[1]
    assert {name for name in fields(daemon.journal) if not re.search(rf"\b{name}\b", page)} == set()
