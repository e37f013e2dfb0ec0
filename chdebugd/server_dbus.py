"""Answers method calls: finds the method, checks type and caller, calls, replies exactly once.

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
from chdebugd.face_dbus import Face, Property
from chdebugd.message_reader_dbus import MESSAGE_LIMIT
from chdebugd.object_tree_dbus import CallRefusedError, ObjectTree, value, values
from chdebugd.standard_dbus import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES

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


Authorize = Callable[[Call, str], Awaitable[None]]
"""Raises AccessDeniedError unless the caller may do the action."""


class Server:
    """Answers for the objects of a connection, and says when they come, change and go."""

    def __init__(
        self, bus: Bus, manager_path: str, authorize: Authorize, requests_per_caller: int
    ) -> None:
        """Objects below `manager_path` are what its ObjectManager tells of."""
        self.bus = bus
        self._tree = ObjectTree(manager_path)
        self._authorize = authorize
        self._requests_per_caller = requests_per_caller
        self._pending: Counter[str] = Counter()
        self._bugs: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        bus.add_message_handler(self._receive)
        bus.on_too_long = self._refuse_too_long

    # Objects come and go

    def publish(self, path: str, face: Face) -> None:
        """Let `face` answer at `path`, and say so where it is a managed object."""
        self._tree.add(path, face)
        if self._tree.is_managed(path):
            body = [path, {face.INTERFACE: values(face)}]
            self._tell("InterfacesAdded", "oa{sa{sv}}", body)

    def withdraw(self, path: str) -> None:
        """Take the object away, and say so."""
        interfaces = self._tree.remove(path)
        if interfaces and self._tree.is_managed(path):
            self._tell("InterfacesRemoved", "oas", [path, interfaces])

    def properties_changed(self, path: str, face: Face, names: list[str]) -> None:
        """Emit PropertiesChanged with the values that the properties have now."""
        changed = {
            name: value(member, face)
            for name in names
            if isinstance(member := face.members[name], Property)
        }
        body = [face.INTERFACE, changed, []]
        self._emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _tell(self, member: str, signature: str, body: list[Any]) -> None:
        self._emit(self._tree.manager_path, OBJECT_MANAGER, member, signature, body)

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
        face, method = self._tree.method(message.path, message.interface, message.member)
        _check_signature(message, method.signature)
        if method.action:
            await self._authorize(call, method.action)
        result = method.call(face, call, *message.body)
        if inspect.isawaitable(result):
            result = await result
        return Message.new_method_return(message, method.reply_signature, result or [])

    # Standard interfaces

    def _standard(self, message: Message) -> tuple[Callable[..., Any], str] | None:
        table = {
            (PEER, "Ping"): (self._ping, ""),
            (PEER, "GetMachineId"): (self._machine_id, ""),
            (INTROSPECTABLE, "Introspect"): (self._introspect, ""),
            (PROPERTIES, "Get"): (self._get, "ss"),
            (PROPERTIES, "GetAll"): (self._get_all, "s"),
            (PROPERTIES, "Set"): (self._set, "ssv"),
        }
        if message.path == self._tree.manager_path:
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
        return "s", [self._tree.introspect(message.path)]

    async def _get(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        face, member = self._tree.property(message.path, *message.body)
        return "v", [value(member, face)]

    async def _get_all(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        return "a{sv}", [self._tree.properties(message.path, message.body[0])]

    async def _set(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        interface, name, wanted = message.body
        face, member = self._tree.property(message.path, interface, name)
        if member.set is None or member.action is None:
            raise CallRefusedError(
                ErrorType.PROPERTY_READ_ONLY, f"{member.name} cannot be set; it is read-only"
            )
        await self._authorize(call, member.action)
        if wanted.signature != member.signature:
            raise CallRefusedError(
                ErrorType.INVALID_ARGS, f"{member.name} has type {member.signature}"
            )
        member.set(face, wanted.value)
        return "", []

    async def _managed_objects(self, call: Call, message: Message) -> tuple[str, list[Any]]:
        return "a{oa{sa{sv}}}", [self._tree.managed_objects()]


def _error(message: Message, error: ChdebugdError | CallRefusedError) -> Message:
    """What callers put into names and paths does not come back at any length."""
    name = PREFIX + error.name if isinstance(error, ChdebugdError) else error.kind
    text = str(error).replace("\0", "?").encode(errors="replace").decode()
    return Message.new_error(message, name, text[:TEXT_MAX])


def _check_signature(message: Message, takes: str) -> None:
    if message.signature != takes:
        raise CallRefusedError(
            ErrorType.INVALID_ARGS,
            f"{message.member} takes '{takes}', not '{message.signature}'",
        )
