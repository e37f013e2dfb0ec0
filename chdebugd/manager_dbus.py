"""org.chdebugd1.Manager: the bus face of manager.py, and what it tells the bus of its VMs."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chdebugd import __version__
from chdebugd.bus_dbus import CallError, to_broker
from chdebugd.dbus_library import Variant
from chdebugd.event_dbus import EventSignals
from chdebugd.face_dbus import Face, method, prop
from chdebugd.given import Value
from chdebugd.manager import Manager
from chdebugd.object_path import vm_path
from chdebugd.options import check_name, parse_options
from chdebugd.polkit_dbus import OPEN_FILES, Authority
from chdebugd.server_dbus import Call, Server
from chdebugd.trace.codemap import CodeMap, CodeMapError
from chdebugd.trace.event import Event
from chdebugd.trace.ring import Ring
from chdebugd.vm import VM
from chdebugd.vm_dbus import COUNTS, STATUS, VmFace

CONFIRM_EVERY = 0.005  # seconds between two questions whether the bus has our signals
COUNTS_EVERY = 0.1  # seconds between two PropertiesChanged of a VM's counts
COUNTS_COST = 0.002  # seconds, twice what one of them takes
KVM = Path("/dev/kvm")


@dataclass
class ManagerFace(Face):
    """The one Manager object."""

    INTERFACE = "org.chdebugd1.Manager"

    manager: Manager
    authority: Authority

    @method((("name", "s"), ("options", "a{sv}")), (("vm", "o"),), action="start-vm")
    async def StartVM(self, call: Call, name: str, options: dict[str, Variant]) -> list[str]:
        check_name(name)
        parsed = parse_options(_given(options), self.manager.limits)
        if parsed.names_paths:
            await self.authority.check(call, OPEN_FILES)
        owner = await self.authority.uid_of(call)
        await self.manager.start_vm(name, parsed, call.fds, owner)
        return [vm_path(name)]

    @method((), (("vms", "a(sso)"),))
    def ListVMs(self, call: Call) -> list[Any]:
        vms = self.manager.vms.values()
        return [[[vm.name, vm.status.state, vm_path(vm.name)] for vm in vms]]

    @method((("name", "s"),), (("vm", "o"),))
    def GetVM(self, call: Call, name: str) -> list[str]:
        return [vm_path(self.manager.find(name).name)]

    @prop("s", "const")
    def Version(self) -> str:
        return __version__

    @prop("b", "false")
    def KVMAvailable(self) -> bool:
        """Whether the device is there; only a VM process may open it."""
        try:
            return stat.S_ISCHR(KVM.stat().st_mode)
        except OSError:
            return False

    @prop("a{st}", "const")
    def Limits(self) -> dict[str, int]:
        return self.manager.limits.to_dict()


def _given(options: dict[str, Variant]) -> dict[str, Value]:
    """Options without dbus-next's types."""
    return {
        key: Value(each.signature, [_given(item) for item in each.value])
        if each.signature == "aa{sv}"
        else Value(each.signature, each.value)
        for key, each in options.items()
    }


class BusWatcher:
    """Publishes VMs and signals what they do; the manager's watcher."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._manager: Manager | None = None
        self._is_open = False
        self._faces: dict[str, VmFace] = {}
        self._signals: dict[str, EventSignals] = {}
        self._due: dict[str, asyncio.TimerHandle] = {}
        self._changed: dict[str, dict[str, None]] = {}
        """Names of properties whose change nobody was told yet, by VM."""
        self._unconfirmed: dict[VM, tuple[Ring, int]] = {}
        """The ticket of the last event signalled that the bus may not have yet, by VM."""
        self._confirming: asyncio.Task[None] | None = None

    def connect(self, server: Server, manager: Manager) -> None:
        """Before the first VM."""
        self._server, self._manager = server, manager
        server.bus.writer.on_room = self._room

    def open(self) -> None:
        """The name is ours: from now on listeners know who speaks, and events are signalled."""
        self._is_open = True
        self._room()

    def close(self) -> None:
        """Signal no more events."""
        self._is_open = False
        if self._confirming is not None:
            self._confirming.cancel()
        for timer in self._due.values():
            timer.cancel()
        self._due.clear()

    def _room(self) -> None:
        """The bus takes signals again: first what changed meanwhile, then events."""
        assert self._manager is not None
        for vm in list(self._manager.vms.values()):
            self._tell(vm)
            vm.signals.pump()

    def has_room(self, vm: VM) -> bool:
        """Whether the VM is published under our name and the bus keeps up."""
        assert self._server is not None
        is_published = self._is_open and vm.name in self._faces
        return is_published and self._server.bus.writer.has_room

    def added(self, vm: VM) -> None:
        """Publish a VM; one that starts again is there already."""
        assert self._server is not None
        assert self._manager is not None
        if vm.name in self._faces:
            return
        names = _code_names(vm)
        path = vm_path(vm.name)
        face = self._faces[vm.name] = VmFace(vm, self._manager, names)
        self._signals[vm.name] = EventSignals(self._server.bus, path, names)
        self._server.publish(path, face)

    def removed(self, vm: VM) -> None:
        """Withdraw a VM; nothing where it was never published."""
        assert self._server is not None
        if vm.name in self._due:
            self._due.pop(vm.name).cancel()
        self._changed.pop(vm.name, None)
        self._signals.pop(vm.name, None)
        if self._faces.pop(vm.name, None):
            self._server.withdraw(vm_path(vm.name))

    def events(self, vm: VM, events: list[Event]) -> None:
        """Signal each; what the bus has not got when we end, the next daemon signals."""
        ring = vm.ring
        assert ring is not None

        def unsent(first: int) -> None:
            vm.signals.take_back(ring, events[first].ticket - 1)

        self._signals[vm.name].emit(events, unsent)
        self._unconfirmed[vm] = ring, events[-1].ticket
        if self._confirming is None or self._confirming.done():
            self._confirming = asyncio.create_task(self._confirm())

    async def _confirm(self) -> None:
        """Ask the broker, which answers in order: then it has all signals that went before.

        A connection that ends by SIGKILL may end before the broker has read what was sent on it.
        """
        assert self._server is not None
        while self._unconfirmed:
            due, self._unconfirmed = self._unconfirmed, {}
            try:
                await self._server.bus.request(to_broker("GetId"))
            except (CallError, OSError, EOFError):
                return
            for vm, (ring, ticket) in due.items():
                vm.signals.confirm(ring, ticket)
            await asyncio.sleep(CONFIRM_EVERY)

    def status_changed(self, vm: VM) -> None:
        """Tell the new state at once, and the counts that led to it."""
        self._note(vm, STATUS + COUNTS)
        self._tell(vm)

    def counts_changed(self, vm: VM) -> None:
        """Tell the counts soon, once for all events till then; later where many VMs have some."""
        self._note(vm, COUNTS)
        if vm.name not in self._due:
            delay = max(COUNTS_EVERY, COUNTS_COST * len(self._faces))
            loop = asyncio.get_running_loop()
            self._due[vm.name] = loop.call_later(delay, self._tell_counts, vm)

    def _tell_counts(self, vm: VM) -> None:
        self._due.pop(vm.name, None)
        self._tell(vm)

    def _note(self, vm: VM, names: list[str]) -> None:
        if vm.name in self._faces:
            self._changed.setdefault(vm.name, {}).update(dict.fromkeys(names))

    def _tell(self, vm: VM) -> None:
        """Nothing while the bus lags: one signal then stands for all that were due."""
        assert self._server is not None
        if vm.name in self._changed and self._server.bus.writer.has_room:
            names = list(self._changed.pop(vm.name))
            self._server.properties_changed(vm_path(vm.name), self._faces[vm.name], names)


def _code_names(vm: VM) -> dict[int, str]:
    """The names of the VM's code map; a bad file has none, and its process tells the journal."""
    name = vm.options.request.code_map
    try:
        codes = CodeMap.load(name) if name else None
    except CodeMapError:
        return {}
    return {code: text for code in range(256) if codes and (text := codes.name(code))}
