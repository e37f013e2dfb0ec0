"""Answers method calls: finds the object, checks type and caller, calls, replies exactly once.

Every call is answered here and none by dbus-next, whose answers carry tracebacks. Descriptors of
a message are closed here unless a method duplicated them. What a caller can make us keep, log or
compute is bounded.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from chdebugd.bus_dbus import Bus
from chdebugd.control import close_all
from chdebugd.dbus_library import ErrorType, Message, MessageFlag, MessageType, Variant
from chdebugd.errors import PREFIX, ChdebugdError, LimitExceededError
from chdebugd.face_dbus import Face, Method, Property, node_xml
from chdebugd.message_reader_dbus import MESSAGE_LIMIT
from chdebugd.standard_dbus import (
    INTROSPECTABLE,
    OBJECT_MANAGER,
    OBJECT_MANAGER_XML,
    PEER,
    PROPERTIES,
    STANDARD_XML,
)

log = logging.getLogger(__name__)

LONG_REPLIES = ("GetManagedObjects", "GetEvents")
TEXT_MAX = 1000  # characters of an error's sentence
SHOWN = 200  # characters of a method's name in the log
BUGS_MAX = 100


@dataclass(frozen=True)
class Call:
    """Who calls, and the descriptors that came along; they are closed after the call."""

    sender: str
    interactive: bool
    fds: list[int]
    credentials: dict[str, Variant] = field(default_factory=dict)
    """What the bus knows of the caller, which never changes; empty until somebody asked."""


class CallRefusedError(Exception):
    """A standard D-Bus error for the caller."""

    def __init__(self, kind: ErrorType, text: str) -> None:
        super().__init__(text)
        self.kind = kind


Authorize = Callable[[Call, str], Awaitable[None]]
"""Raises AccessDeniedError unless the caller may do the action."""


class Server:
    """The objects of this connection by path."""

    def __init__(
        self, bus: Bus, manager_path: str, authorize: Authorize, requests_per_caller: int
    ) -> None:
        """Objects below `manager_path` are what its ObjectManager tells of."""
        self.bus = bus
        self._manager_path = manager_path
        self._authorize = authorize
        self._requests_per_caller = requests_per_caller
        self._pending: Counter[str] = Counter()
        self._bugs: set[str] = set()
        self._objects: dict[str, dict[str, Face]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        bus.add_message_handler(self._receive)
        bus.on_too_long = self._refuse_too_long

    # Objects come and go

    def publish(self, path: str, face: Face) -> None:
        """Let `face` answer at `path`, and say so where it is a managed object."""
        self._objects.setdefault(path, {})[face.INTERFACE] = face
        if path.startswith(self._manager_path + "/"):
            body = [path, {face.INTERFACE: self._get_all(face)}]
            self._emit(self._manager_path, OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", body)

    def withdraw(self, path: str) -> None:
        """Take the object away, and say so."""
        faces = self._objects.pop(path, {})
        if faces and path.startswith(self._manager_path + "/"):
            body = [path, list(faces)]
            self._emit(self._manager_path, OBJECT_MANAGER, "InterfacesRemoved", "oas", body)

    def properties_changed(self, path: str, face: Face, names: list[str]) -> None:
        """Emit PropertiesChanged with the values that the properties have now."""
        values = {
            name: _variant(member, face)
            for name in names
            if isinstance(member := face.members[name], Property)
        }
        body = [face.INTERFACE, values, []]
        self._emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _emit(
        self, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> None:
        self.bus.send(Message.new_signal(path, interface, member, signature, body))

    # Calls

    def _receive(self, message: Message) -> bool:
        """Take every method call; of all else only the descriptors nobody asked for."""
        if message.message_type != MessageType.METHOD_CALL:
            close_all(message.unix_fds or [])
            return False
        caller = message.sender or ""
        if self._pending[caller] >= self._requests_per_caller:
            close_all(message.unix_fds or [])
            text = f"{caller} has {self._requests_per_caller} requests that wait; await some first"
            self._reply(message, _error(message, LimitExceededError(text)))
            return True
        self._pending[caller] += 1
        task = asyncio.create_task(self._serve(message, caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _refuse_too_long(self, message: Message) -> None:
        if message.message_type == MessageType.METHOD_CALL:
            text = f"The message is longer than {MESSAGE_LIMIT} bytes; send less"
            self._reply(message, _error(message, LimitExceededError(text)))
        close_all(message.unix_fds or [])

    async def _serve(self, message: Message, caller: str) -> None:
        try:
            reply = await self._answer(message)
            data = await self._marshall(message, reply)
        except (ChdebugdError, CallRefusedError) as error:
            self._reply(message, _error(message, error))
        except Exception:
            self._log_bug(f"{message.interface}.{message.member}")
            text = "Internal error of chdebugd; its journal has more"
            self._reply(message, Message.new_error(message, ErrorType.FAILED, text))
        else:
            if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                self.bus.writer.put(data)
        finally:
            close_all(message.unix_fds or [])
            self._pending[caller] -= 1
            if not self._pending[caller]:
                del self._pending[caller]

    async def _marshall(self, message: Message, reply: Message) -> bytes:
        """On a thread where it may be long, so that others are answered meanwhile."""
        reply.serial = self.bus.next_serial()
        if message.member in LONG_REPLIES:
            return bytes(await asyncio.to_thread(reply._marshall))
        return bytes(reply._marshall())

    def _reply(self, message: Message, reply: Message) -> None:
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self.bus.send(reply)

    def _log_bug(self, method: str) -> None:
        """Once a method: a caller must not be able to fill the journal."""
        if method not in self._bugs and len(self._bugs) < BUGS_MAX:
            self._bugs.add(method)
            log.exception("Bug in D-Bus method %s", method[:SHOWN])

    async def _answer(self, message: Message) -> Message:
        call = Call(
            message.sender or "",
            bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION),
            message.unix_fds or [],
        )
        standard = self._standard(message)
        if standard is not None:
            member, takes = standard
            _check_signature(message, takes)
            signature, body = await member(call, message)
            return Message.new_method_return(message, signature, body)
        face, method = self._find(message)
        _check_signature(message, method.signature)
        if method.action:
            await self._authorize(call, method.action)
        result = method.call(face, call, *message.body)
        if inspect.isawaitable(result):
            result = await result
        return Message.new_method_return(message, method.reply_signature, result or [])

    def _find(self, message: Message) -> tuple[Face, Method]:
        """The method meant; a call without an interface means the first that has the member."""
        faces = self._objects.get(message.path)
        if faces is None:
            raise CallRefusedError(ErrorType.UNKNOWN_OBJECT, f"No object at {message.path}")
        if message.interface and message.interface not in faces:
            raise CallRefusedError(
                ErrorType.UNKNOWN_INTERFACE, f"{message.path} has no {message.interface}"
            )
        for name, face in faces.items():
            member = face.members.get(message.member)
            if message.interface in (None, "", name) and isinstance(member, Method):
                return face, member
        raise CallRefusedError(
            ErrorType.UNKNOWN_METHOD, f"{message.path} has no method {message.member}"
        )

    # Standard interfaces

    def _standard(self, message: Message) -> tuple[Callable[..., Any], str] | None:
        table = {
            (PEER, "Ping"): (self._ping, ""),
            (PEER, "GetMachineId"): (self._machine_id, ""),
            (INTROSPECTABLE, "Introspect"): (self._introspect, ""),
            (PROPERTIES, "Get"): (self._get, "ss"),
            (PROPERTIES, "GetAll"): (self._get_all_call, "s"),
            (PROPERTIES, "Set"): (self._set, "ssv"),
        }
        if message.path == self._manager_path:
            table[OBJECT_MANAGER, "GetManagedObjects"] = (self._managed_objects, "")
        if message.interface:
            return table.get((message.interface, message.member))
        return next((each for (_, name), each in table.items() if name == message.member), None)

    async def _ping(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        return "", []

    async def _machine_id(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        with open("/etc/machine-id") as file:  # noqa: ASYNC230 - one small local file
            return "s", [file.read().strip()]

    async def _introspect(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        path = message.path
        faces = self._objects.get(path, {})
        below = "/" if path == "/" else path + "/"
        rest = (each[len(below) :] for each in self._objects if each.startswith(below))
        children = sorted({each.split("/", 1)[0] for each in rest})
        if not faces and not children:
            raise CallRefusedError(ErrorType.UNKNOWN_OBJECT, f"No object at {path}")
        standard = STANDARD_XML if faces else ""
        if path == self._manager_path:
            standard += OBJECT_MANAGER_XML
        return "s", [node_xml([type(face) for face in faces.values()], children, standard)]

    def _property(self, message: Message) -> tuple[Face, Property]:
        interface, name = message.body[:2]
        face = self._face(message.path, interface)
        member = face.members.get(name)
        if not isinstance(member, Property):
            raise CallRefusedError(ErrorType.UNKNOWN_PROPERTY, f"{interface} has no {name}")
        return face, member

    def _face(self, path: str, interface: str) -> Face:
        faces = self._objects.get(path)
        if faces is None:
            raise CallRefusedError(ErrorType.UNKNOWN_OBJECT, f"No object at {path}")
        if interface not in faces:
            raise CallRefusedError(ErrorType.UNKNOWN_INTERFACE, f"{path} has no {interface}")
        return faces[interface]

    async def _get(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        face, member = self._property(message)
        return "v", [_variant(member, face)]

    async def _get_all_call(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        standard = (PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER)
        if message.body[0] in standard and message.path in self._objects:
            return "a{sv}", [{}]
        if not message.body[0] and message.path in self._objects:
            faces = self._objects[message.path].values()
            return "a{sv}", [{k: v for face in faces for k, v in self._get_all(face).items()}]
        return "a{sv}", [self._get_all(self._face(message.path, message.body[0]))]

    def _get_all(self, face: Face) -> dict[str, Variant]:
        return {member.name: _variant(member, face) for member in face.properties()}

    async def _set(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        face, member = self._property(message)
        if member.set is None or member.action is None:
            raise CallRefusedError(
                ErrorType.PROPERTY_READ_ONLY, f"{member.name} cannot be set; it is read-only"
            )
        await self._authorize(call, member.action)
        value: Variant = message.body[2]
        if value.signature != member.signature:
            raise CallRefusedError(
                ErrorType.INVALID_ARGS, f"{member.name} has type {member.signature}"
            )
        member.set(face, value.value)
        return "", []

    async def _managed_objects(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        below = self._manager_path + "/"
        objects = {
            path: {name: self._get_all(face) for name, face in faces.items()}
            for path, faces in self._objects.items()
            if path.startswith(below)
        }
        return "a{oa{sa{sv}}}", [objects]


def _error(message: Message, error: ChdebugdError | CallRefusedError) -> Message:
    """What callers put into names and paths does not come back at any length."""
    name = PREFIX + error.name if isinstance(error, ChdebugdError) else error.kind
    return Message.new_error(message, name, str(error).replace("\0", "?")[:TEXT_MAX])


def _variant(member: Property, face: Face) -> Variant:
    return Variant(member.signature, member.get(face))


def _check_signature(message: Message, takes: str) -> None:
    if message.signature != takes:
        raise CallRefusedError(
            ErrorType.INVALID_ARGS,
            f"{message.member} takes '{takes}', not '{message.signature}'",
        )
