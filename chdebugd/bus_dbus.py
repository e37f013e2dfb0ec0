"""The connection to the bus: dbus-next's, with guards for what would end or drain it.

- Its writer takes EAGAIN for the end of the connection; ours waits until the socket takes more.
- Its queue has no bound and sends descriptors it does not own; ours counts and duplicates.
- Its serial runs past 2^32, where no message can be sent any more; ours starts over.
- It keeps the socket of a connection that came to nothing; ours closes it.
- It blocks the loop until a bus that stands still has a place for it; ours tries again.
- Its reader of messages: see message_reader_dbus.py.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from chdebugd.control import close_all
from chdebugd.dbus_library import BusType, Message, MessageBus, MessageType, MessageWriter
from chdebugd.message_reader_dbus import MessageReader

SERIAL_MAX = 0xFFFF_FFFF
ROOM = 256 * 1024  # bytes in the queue; beyond them no further signals are made
PLACE_AGAIN = 0.05  # seconds until a bus is asked again that had no place for one more to wait
JOIN_LIMIT = 64 * 1024  # bytes that one send gathers
NO_REPLY = "org.freedesktop.DBus.Error.NoReply"


Unsent = Callable[[int], None]
"""Told, where the connection ends too soon, how many bytes of a `put` were sent."""


class GuardedWriter(MessageWriter):  # type: ignore[misc]
    """A queue of marshalled messages in front of a non-blocking socket."""

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self._queue: deque[tuple[bytes, list[int], asyncio.Future[None] | Unsent | None]] = deque()
        self._queued = 0
        self._offset = 0
        self._is_writing = False
        self._empty = asyncio.Event()
        self.on_room: Callable[[], None] = lambda: None

    @property
    def has_room(self) -> bool:
        """Whether the bus keeps up; where not, `on_room` is called once it does."""
        return self._queued < ROOM

    def buffer_message(self, msg: Message, future: asyncio.Future[None] | None = None) -> None:
        """Queue a message with descriptors of its own."""
        fds = [os.dup(fd) for fd in msg.unix_fds or ()] if self.negotiate_unix_fd else []
        self._put(msg._marshall(negotiate_unix_fd=self.negotiate_unix_fd), fds, future)

    def put(self, data: bytes, unsent: Unsent | None = None) -> None:
        """Queue marshalled messages without descriptors."""
        self._put(data, [], unsent)
        self.schedule_write()

    def _put(
        self, data: bytes, fds: list[int], waiter: asyncio.Future[None] | Unsent | None
    ) -> None:
        self._queue.append((data, fds, waiter))
        self._queued += len(data)

    def schedule_write(
        self, msg: Message | None = None, future: asyncio.Future[None] | None = None
    ) -> None:
        """Write at once what the socket takes, the rest when it takes more."""
        if msg is not None:
            self.buffer_message(msg, future)
        if self.bus.unique_name and not self._is_writing:
            self.write_callback()

    def write_callback(self) -> None:
        """Write until the queue is empty or the socket full."""
        full_before = not self.has_room
        try:
            while self._queue:
                self._write_some()
        except BlockingIOError:
            self._watch(True)
        except OSError as error:
            self._watch(False)
            self._fail(error)
        else:
            self._watch(False)
        if full_before and self.has_room:
            self.on_room()

    def _write_some(self) -> None:
        data, fds, _ = self._queue[0]
        if fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            sent = self.sock.sendmsg([memoryview(data)[self._offset :]], [rights])
            close_all(fds)
            fds.clear()
        else:
            sent = self.sock.sendmsg(self._gather())
        self._queued -= sent
        self._offset += sent
        while self._queue and self._offset >= len(self._queue[0][0]):
            data, _, waiter = self._queue.popleft()
            self._offset -= len(data)
            if isinstance(waiter, asyncio.Future) and not waiter.done():
                waiter.set_result(None)
        if not self._queue:
            self._empty.set()

    def _gather(self) -> list[memoryview]:
        """The front of the queue, up to the next message with descriptors."""
        parts: list[memoryview] = []
        size, offset = 0, self._offset
        for data, fds, _ in self._queue:
            if (fds and parts) or size > JOIN_LIMIT or len(parts) == 64:
                break
            parts.append(memoryview(data)[offset:])
            size, offset = size + len(data), 0
        return parts

    def _watch(self, on: bool) -> None:
        if on != self._is_writing:
            self._is_writing = on
            if on:
                self.loop.add_writer(self.fd, self.write_callback)
            else:
                self.loop.remove_writer(self.fd)

    def _fail(self, error: OSError) -> None:
        self.give_up()
        self.bus._finalize(error)

    async def flush(self, within: float) -> None:
        """Wait until all is written, but no longer than `within` seconds."""
        if self._queue:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within)

    def give_up(self) -> None:
        """Forget the queue, and tell whose messages are in it, the newest first."""
        while self._queue:
            _, fds, waiter = self._queue.pop()
            close_all(fds)
            if isinstance(waiter, asyncio.Future):
                waiter.cancel()
            elif waiter is not None:
                waiter(0 if self._queue else self._offset)
        self._queued = self._offset = 0


class Bus(MessageBus):
    """One connection to a message bus."""

    def __init__(self, address: str | None) -> None:
        """`address` None is the system bus. Call inside the running loop."""
        self._sock: Any = None
        try:
            super().__init__(bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        except BaseException:
            self.close()
            raise
        self._writer = GuardedWriter(self)
        self._reader: MessageReader | None = None
        self.on_too_long: Callable[[Message], None] = lambda message: None
        """Gets messages that were too long to read, without their bodies."""

    @classmethod
    async def reached(cls, address: str | None) -> Self:
        """A connection, as soon as the bus lets us in; raises what dbus-next and the socket raise.

        `address` None is the system bus.
        """
        while True:
            with contextlib.suppress(BlockingIOError):
                return await cls(address).connect()
            await asyncio.sleep(PLACE_AGAIN)

    def _setup_socket(self) -> None:
        """Raises BlockingIOError where a local bus has no place for one more that waits."""
        before = socket.getdefaulttimeout()
        if all(transport == "unix" for transport, _ in self._bus_address):
            socket.setdefaulttimeout(0)
        try:
            super()._setup_socket()
        finally:
            socket.setdefaulttimeout(before)

    async def connect(self) -> Self:
        """Get in; where that fails, closed again. Raises what dbus-next and the socket raise."""
        try:
            await super().connect()
        except BaseException:
            asyncio.get_running_loop().remove_reader(self._fd)
            self.close()
            raise
        return self

    @property
    def writer(self) -> GuardedWriter:
        """The way out, for signals that are marshalled already."""
        writer: GuardedWriter = self._writer
        return writer

    def next_serial(self) -> int:
        """1 to 2^32 - 1, then again (D-Bus specification, message format)."""
        self._serial: int = self._serial % SERIAL_MAX + 1
        return self._serial

    def _message_reader(self) -> None:
        """Called when the socket can be read."""
        if self._reader is None:
            self._reader = MessageReader(self._sock, self._on_message, self._refuse)
        try:
            self._reader.read()
        except (EOFError, OSError) as error:
            self._reader.close()
            self._finalize(error)

    def _refuse(self, message: Message) -> None:
        self.on_too_long(message)

    def _finalize(self, err: BaseException | None = None) -> None:
        """The end of the connection is a fact to wait for, not an exception that nobody fetches."""
        if not self._disconnect_future.done():
            self._disconnect_future.set_result(None)
        super()._finalize(err)

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended."""
        return bool(self._disconnect_future.done())

    def close(self) -> None:
        """Close the descriptors of a connection that is over, or never was."""
        if self._sock is not None:
            self._stream.close()
            self._sock.close()

    async def request(self, message: Message, *, within: float | None = None) -> list[Any]:
        """Call a method and return its results; raises CallError.

        An answer that takes longer than `within` seconds is the error NoReply.
        """
        if self.is_over:  # nobody would answer, nor tell that
            raise CallError(NO_REPLY, "the bus hung up")
        message.serial = self.next_serial()
        try:
            async with asyncio.timeout(within):
                reply = await self.call(message)
        except TimeoutError:
            raise CallError(NO_REPLY, f"no answer within {within:g} s") from None
        except (EOFError, OSError) as error:
            raise CallError(NO_REPLY, f"the bus hung up: {error}") from None
        finally:
            self._method_return_handlers.pop(message.serial, None)
        if reply is None or reply.message_type == MessageType.ERROR:
            name = reply.error_name if reply else NO_REPLY
            text = str(reply.body[0]) if reply and reply.body else name
            raise CallError(name, text)
        body: list[Any] = reply.body
        return body


def to_broker(member: str, signature: str = "", *body: object) -> Message:
    """A call of the broker's own interface, org.freedesktop.DBus."""
    name = "org.freedesktop.DBus"
    return Message(
        destination=name,
        path="/org/freedesktop/DBus",
        interface=name,
        member=member,
        signature=signature,
        body=list(body),
    )


class CallError(Exception):
    """A method of somebody else answered with an error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
