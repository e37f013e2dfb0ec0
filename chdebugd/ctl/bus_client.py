"""The connection to chdebugd: calls, properties and signals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from chdebugd.ctl.errors import CtlError
from chdebugd.ctl.place import BRIDGE, Place, Relay, relay
from chdebugd.dbus_library import BusType, Message, MessageBus, MessageFlag, MessageType, Variant
from chdebugd.object_path import MANAGER_PATH, VM_PATH

NAME = "org.chdebugd1"
MANAGER = "org.chdebugd1.Manager"
VM = "org.chdebugd1.VM"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
BUS = "org.freedesktop.DBus"
MATCH = f"type='signal',sender='{NAME}',path_namespace='{MANAGER_PATH}'"
NOT_RUNNING = frozenset(
    f"{BUS}.Error.{name}"
    for name in ("ServiceUnknown", "NameHasNoOwner", "Spawn.ServiceNotFound", "NoReply")
)
UNKNOWN_OBJECT = frozenset(f"{BUS}.Error.{name}" for name in ("UnknownObject", "UnknownMethod"))


class CallError(CtlError):
    """A method answered with an error; `name` is its name on D-Bus."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(sentence)
        self.name = name


class BusClient:
    """Calls chdebugd and hears its signals; used from one event loop."""

    def __init__(self, bus: MessageBus, place: Place) -> None:
        self.place = place
        self.signals: asyncio.Queue[Message | None] = asyncio.Queue()
        """None comes last, where the bus hangs up."""
        self._bus = bus
        # dbus-next gives every waiter the same future: it must not be cancelled.
        self._ended = asyncio.create_task(self._tell_end())
        bus.add_message_handler(self._handle)

    def _handle(self, message: Message) -> None:
        if message.message_type == MessageType.SIGNAL and message.path.startswith(MANAGER_PATH):
            self.signals.put_nowait(message)

    async def _tell_end(self) -> None:
        with contextlib.suppress(Exception):  # the cause is of no use to anyone
            await self._bus.wait_for_disconnect()
        self.signals.put_nowait(None)

    async def close(self) -> None:
        """Leave the bus."""
        self._bus.disconnect()
        await self._ended
        _close(self._bus)

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        fds: list[int] | None = None,
    ) -> list[Any]:
        """The results of a method of chdebugd; raises CallError."""
        message = Message(
            destination=NAME,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            unix_fds=fds or [],
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
        )
        return await self._send(message)

    async def _send(self, message: Message) -> list[Any]:
        answer = asyncio.ensure_future(self._bus.call(message))
        answer.add_done_callback(_ignore_failure)
        await asyncio.wait([answer, self._ended], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            raise CtlError(f"The bus{self.place.label} hung up; see whether it runs, and try again")
        reply = answer.result()
        if reply.message_type == MessageType.ERROR:
            raise self._refusal(reply)
        results: list[Any] = reply.body
        return results

    def _refusal(self, reply: Message) -> CallError:
        text = str(reply.body[0]) if reply.body else reply.error_name
        if reply.error_name in NOT_RUNNING:
            text = f"chdebugd does not run{self.place.label}; start it: systemctl start chdebugd"
        return CallError(reply.error_name, text)

    async def listen(self) -> None:
        """Put the signals of all VMs into `signals` from now on."""
        await self._send(
            Message(
                destination=BUS,
                path="/org/freedesktop/DBus",
                interface=BUS,
                member="AddMatch",
                signature="s",
                body=[MATCH],
            )
        )

    async def find(self, name: str) -> str:
        """The object path of a VM; raises CallError."""
        [path] = await self.call(MANAGER_PATH, MANAGER, "GetVM", "s", name)
        return str(path)

    async def control(self, path: str, verb: str, signature: str = "", *body: Any) -> None:
        """Call a method of a VM that gives nothing."""
        await self.call(path, VM, verb, signature, *body)

    async def vm_properties(self, path: str) -> dict[str, Any]:
        """All properties of a VM."""
        [found] = await self.call(path, PROPERTIES, "GetAll", "s", VM)
        return plain(found)

    async def all_vms(self) -> dict[str, dict[str, Any]]:
        """The properties of all VMs by object path."""
        [objects] = await self.call(MANAGER_PATH, OBJECT_MANAGER, "GetManagedObjects")
        vms = {path: faces for path, faces in objects.items() if path.startswith(VM_PATH)}
        return {path: plain(faces[VM]) for path, faces in sorted(vms.items())}

    async def events(self, path: str, since: int, limit: int) -> list[list[Any]]:
        """Events of a VM's boot from the daemon: seq, elapsed_nsec, code, component, details."""
        [found] = await self.call(path, VM, "GetEvents", "tu", since, limit)
        return [[*event[:4], plain(event[4])] for event in found]


def _ignore_failure(answer: asyncio.Future[Any]) -> None:
    """Whoever still waits for the answer is told; nobody else needs to be."""
    if not answer.cancelled():
        answer.exception()


def plain(found: dict[str, Variant]) -> dict[str, Any]:
    """Values without their types."""
    return {name: _plain(each.value) for name, each in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


@contextlib.asynccontextmanager
async def connected(place: Place) -> AsyncIterator[BusClient]:
    """A connection to the bus of that place; raises CtlError."""
    if place.host:
        with relay(place.command(BRIDGE)) as end:
            async with _connection(place, end.address, end) as client:
                yield client
    else:
        address = place.container_address() if place.container else place.bus
        async with _connection(place, address, None) as client:
            yield client


@contextlib.asynccontextmanager
async def _connection(
    place: Place, address: str | None, end: Relay | None
) -> AsyncIterator[BusClient]:
    bus = None
    try:
        kind = BusType.SYSTEM
        bus = MessageBus(address, kind, negotiate_unix_fd=place.passes_descriptors)
        if end:
            end.start()
        await bus.connect()
    except CtlError:
        _close(bus)
        raise
    except Exception as error:  # dbus-next raises what it likes
        _close(bus)
        where = address if address and not end else "the system bus"
        raise CtlError(
            f"Cannot connect to {where}{place.label}: {error or type(error).__name__}; "
            "see whether dbus runs there and this user may use it"
        ) from None
    client = BusClient(bus, place)
    try:
        yield client
    finally:
        await client.close()


def _close(bus: MessageBus | None) -> None:
    """Close what dbus-next leaves open."""
    if bus is not None and bus._sock:
        bus._stream.close()
        bus._sock.close()
