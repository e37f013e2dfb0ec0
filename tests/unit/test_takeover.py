"""When a VM is let go whose dead processes left something."""

from __future__ import annotations

import asyncio
from typing import cast

from chdebugd.control import Status
from chdebugd.launcher import Launcher
from chdebugd.options import VmOptions
from chdebugd.recovery import Recovery
from chdebugd.remains import Remains
from chdebugd.takeover import Takeovers
from chdebugd.trace.ring import Ring
from chdebugd.vm import VM, Listener


class Journal:
    """In place of a recovery: takes what is left of a boot when the test says so."""

    def __init__(self) -> None:
        self.takes: dict[str, asyncio.Event] = {}

    async def recover(self, remains: Remains, _: asyncio.Future[Status] | None) -> None:
        await self.takes.setdefault(remains.counts.boot_id, asyncio.Event()).wait()


def boot(vm: VM) -> str:
    """The id of the next boot, by a process of its own that is dead already."""
    ring = Ring.create()
    ring.start_boot(1, 1)
    vm.signals.attach(ring)
    return vm.counts.boot_id


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def test_a_vm_is_let_go_once_the_last_of_its_boots_is_taken_over() -> None:
    """Whichever that is: it may have started again while its former boot was not written."""

    async def told() -> tuple[list[str], list[str]]:
        journal, over = Journal(), list[str]()
        vm = VM("again", VmOptions.empty(), cast(Listener, None), 0)
        takeovers = Takeovers(
            cast(Recovery, journal), cast(Launcher, None), lambda each: over.append(each.name)
        )
        former = boot(vm)
        takeovers.begin(vm)
        await settle()
        last = boot(vm)
        takeovers.begin(vm)
        await settle()
        journal.takes[last].set()
        await settle()
        early = list(over)
        journal.takes[former].set()
        await settle()
        vm.close()
        return early, over

    early, over = asyncio.run(told())
    assert early == ["again"]
    assert over == ["again", "again"]
