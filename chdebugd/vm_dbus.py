"""org.chdebugd1.VM: the bus face of vm.py, one object a VM."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from chdebugd.dbus_library import Variant
from chdebugd.event_dbus import DEBUG_EVENT, INTERFACE, details
from chdebugd.face_dbus import Face, method, prop
from chdebugd.given import Value
from chdebugd.manager import Manager
from chdebugd.server_dbus import Call
from chdebugd.trace.event import COMPONENT_OF
from chdebugd.vm import VM

CONTROL = "control-vm"
LAST = ["LastCode", "LastComponent"]
COUNTS = ["EventCount", "DroppedEvents", "SkippedSignals", "StalledUSec", *LAST]
BOOT = ["BootID", "BootCount", "StartTimestampMonotonic"]
STATUS = ["State", "Result", *BOOT, "Terminals", "ExitCostNSec"]


@dataclass
class VmFace(Face):
    """One VM on the bus. `names` are its code map's."""

    INTERFACE = INTERFACE
    SIGNALS = (DEBUG_EVENT,)

    vm: VM
    manager: Manager
    names: dict[int, str]

    # Methods

    @method(action=CONTROL)
    async def Start(self, call: Call) -> None:
        await self.manager.start_again(self.vm)

    @method((("timeout_usec", "t"),), action=CONTROL)
    async def Stop(self, call: Call, timeout_usec: int) -> None:
        await self.manager.stop(self.vm, timeout_usec)

    @method(action=CONTROL)
    async def Kill(self, call: Call) -> None:
        await self.manager.kill(self.vm)

    @method(action=CONTROL)
    async def Pause(self, call: Call) -> None:
        await self.vm.call("pause")

    @method(action=CONTROL)
    async def Resume(self, call: Call) -> None:
        await self.vm.call("resume")

    @method(action=CONTROL)
    async def Reset(self, call: Call) -> None:
        await self.vm.call("reset")

    @method(action=CONTROL)
    async def Remove(self, call: Call) -> None:
        await self.manager.remove(self.vm)

    @method((("since_seq", "t"), ("max", "u")), (("events", "a(ttysa{sv})"),))
    async def GetEvents(self, call: Call, since_seq: int, max: int) -> list[Any]:
        limit = min(max, self.manager.limits.events_per_call)
        found = []
        for at, event in enumerate(self.vm.signals.events_after(since_seq, limit)):
            if at % 256 == 255:
                await asyncio.sleep(0)  # other callers first
            about = details(event, self.names.get(event.code))
            found.append([event.seq, event.elapsed_nsec, event.code, event.component, about])
        return [found]

    # Properties

    @prop("s", "const")
    def Name(self) -> str:
        return self.vm.name

    @prop("s")
    def State(self) -> str:
        return self.vm.status.state

    @prop("s")
    def Result(self) -> str:
        return self.vm.status.result

    @prop("s")
    def BootID(self) -> str:
        return self.vm.counts.boot_id

    @prop("u")
    def BootCount(self) -> int:
        return self.vm.boot_count

    @prop("a{sv}", "const")
    def Options(self) -> dict[str, Variant]:
        return _variants(self.vm.options.given)

    @prop("t")
    def StartTimestampMonotonic(self) -> int:
        return self.vm.counts.start_nsec // 1000

    @prop("t")
    def EventCount(self) -> int:
        return self.vm.counts.events

    @prop("t")
    def DroppedEvents(self) -> int:
        return self.vm.counts.dropped

    @prop("t")
    def SkippedSignals(self) -> int:
        return self.vm.counts.skipped

    @prop("t")
    def StalledUSec(self) -> int:
        return self.vm.counts.stalled_nsec // 1000

    @prop("t")
    def ExitCostNSec(self) -> int:
        return self.vm.status.exit_cost_nsec

    @prop("y")
    def LastCode(self) -> int:
        return self.vm.counts.last_code

    @prop("s")
    def LastComponent(self) -> str:
        counts = self.vm.counts
        return COMPONENT_OF[counts.last_code] if counts.events else ""

    @prop("a{ss}")
    def Terminals(self) -> dict[str, str]:
        return dict(self.vm.status.terminals)


def _variants(given: dict[str, Value]) -> dict[str, Variant]:
    """Options as they came; a descriptor is shown by its index in that message."""
    return {key: _variant(value) for key, value in given.items()}


def _variant(value: Value) -> Variant:
    if value.signature == "h":
        return Variant("s", "descriptor")
    if value.signature == "aa{sv}":
        return Variant("aa{sv}", [_variants(each) for each in value.value])
    return Variant(value.signature, value.value)
