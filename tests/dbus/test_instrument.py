"""What the instrument says of itself: the cost of an exit, and the time a guest had to wait."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chdebugd.control import EXIT_COST
from chdebugd.dbus_library import Variant
from chdebugd.exit_cost import HOST_BOOT
from chdebugd.trace.journal import MessageId
from chdebugd.trace.ring import CAPACITY
from tests.dbus.conftest import Client, Daemon, file_with, story
from tests.guests import SLEEP, burst, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
PART_OF_THE_RING = CAPACITY * 5 // 8  # events; two of them are more than it holds


@story
async def test_each_boot_is_told_what_a_mark_costs(daemon: Daemon, client: Client) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(mark(0x40) + SLEEP))
    path = await client.start_vm("fw0", firmware=Variant("s", str(guest)))
    cost = await client.get(path, "ExitCostNSec")
    await client.call(path, "org.chdebugd1.VM", "Reset")
    await client.wait_for(
        lambda: len(daemon.journal.entries(MESSAGE_ID=MessageId.EXIT_COST.value)) == 2
    )

    entries = daemon.journal.entries(MESSAGE_ID=MessageId.EXIT_COST.value)

    assert cost > 0
    assert {entry["EXIT_COST_NSEC"] for entry in entries} == {str(cost)}
    assert len({entry["VM_BOOT"] for entry in entries}) == 2


@story
async def test_a_stall_is_told_of_the_boot_that_had_it(daemon: Daemon, client: Client) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(burst(PART_OF_THE_RING) + SLEEP))
    daemon.journal.stop()
    path = await client.start_vm("fw0", firmware=Variant("s", str(guest)))

    async def count() -> int:
        return int(await client.get(path, "EventCount"))

    async def first_boot_is_in_the_ring() -> bool:
        return await count() == PART_OF_THE_RING

    async def all_are_put() -> bool:
        return await count() == 2 * PART_OF_THE_RING

    await client.wait_for(first_boot_is_in_the_ring)
    first = await client.get(path, "BootID")
    assert await client.get(path, "StalledUSec") == 0
    await client.call(path, "org.chdebugd1.VM", "Reset")
    seen: list[int] = [0]

    async def guest_waits() -> bool:
        seen.append(await count())
        return seen[-1] == seen[-2] >= CAPACITY

    await client.wait_for(guest_waits)
    daemon.journal.go()
    await client.wait_for(all_are_put)
    second = await client.get(path, "BootID")
    stalled = await client.get(path, "StalledUSec")
    await client.call(path, "org.chdebugd1.VM", "Kill")
    await client.wait_state(path, "stopped")
    await client.wait_for(
        lambda: bool(daemon.journal.entries(MESSAGE_ID=MessageId.VM_STALLED.value))
    )

    [entry] = daemon.journal.entries(MESSAGE_ID=MessageId.VM_STALLED.value)

    assert (entry["VM_BOOT"], entry["STALLED_USEC"]) == (second, str(stalled))
    assert first != second
    assert stalled > 0


@story
async def test_a_host_that_hides_the_port_is_told_at_the_start(
    daemon: Daemon, client: Client
) -> None:
    """The cache of the self-test stands for a KVM that lets guests write to the port itself."""
    known = {"host_boot": Path(HOST_BOOT).read_text().strip(), "nsec": 0, "traps": False}
    (daemon.runtime_dir / EXIT_COST).write_text(json.dumps(known))
    guest = file_with(daemon.runtime_dir.parent, rom(mark(0x40) + SLEEP))

    path = await client.start_vm("fw0", firmware=Variant("s", str(guest)))

    kind = MessageId.PORT_PASSES_THROUGH.value
    await client.wait_for(lambda: bool(daemon.journal.entries(MESSAGE_ID=kind)))
    [entry] = daemon.journal.entries(MESSAGE_ID=kind)
    assert entry["PRIORITY"] == "3"
    assert "no mark will be seen" in entry["MESSAGE"]
    assert await client.get(path, "ExitCostNSec") == 0
