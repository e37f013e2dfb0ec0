"""`monitor`: the marks of all VMs, or of some, as they come."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.boots import Mark
from chdebugd.ctl.bus_client import VM, connected, plain
from chdebugd.ctl.errors import CtlError
from chdebugd.ctl.mark_filter import add_filter, filter_of
from chdebugd.ctl.mark_printer import MarkPrinter
from chdebugd.dbus_library import Message
from chdebugd.object_path import VM_PATH, vm_name


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("monitor", "show the marks of all VMs as they come, until Ctrl-C", _run)
    parser.add_argument("vm", metavar="VM", nargs="*", help="only these, there or to come")
    add_filter(parser)


def _run(given: argparse.Namespace) -> int:
    monitor = Monitor(given)
    asyncio.run(monitor.run())
    return 0


class Monitor:
    """Prints what the signals tell; a gap in a VM's marks is told, too."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._place = place_of(given)
        self._filter = filter_of(given)
        self._names = frozenset(given.vm)
        self._printer = MarkPrinter(output_of(given), with_vm=True)
        self._seq: dict[str, int] = {}
        self._states: dict[str, str] = {}

    async def run(self) -> None:
        """Until the bus hangs up, which raises CtlError, or the user has enough."""
        async with connected(self._place) as client:
            await client.listen()
            self._printer.note("Listening; Ctrl-C ends")
            while message := await client.signals.get():
                if message.path.startswith(VM_PATH):
                    self._take(vm_name(message.path), message)
            raise CtlError("The bus hung up; see whether it runs, and try again")

    def _take(self, vm: str, message: Message) -> None:
        if self._names and vm not in self._names:
            return
        if message.member == "DebugEvent":
            self._show(vm, [*message.body[:4], plain(message.body[4])])
        elif message.member == "PropertiesChanged" and message.body[0] == VM:
            state = plain(message.body[1]).get("State")
            if state and state != self._states.get(vm):
                self._states[vm] = state
                self._printer.state(vm, state)

    def _show(self, vm: str, event: list[Any]) -> None:
        seq, nsec, code, component, details = event
        before = self._seq.get(vm, seq - 1)
        self._seq[vm] = seq
        if seq > before + 1:
            self._printer.note(
                f"{vm}: {seq - before - 1} marks were not signalled; see events {vm}"
            )
        mark = Mark(code, nsec, seq, details["vcpu"], details.get("name", ""), component)
        if self._filter.takes(mark):
            self._printer.mark(vm, event)
