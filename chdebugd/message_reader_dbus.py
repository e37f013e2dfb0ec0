"""The way in from the bus: whole messages of bounded size, each with its own descriptors.

dbus-next's reader does as the sender says. A message of 32 MiB would hold everybody up for a
minute while it is taken apart; a kind of message or header that it does not know would end the
connection; and descriptors would go with whatever message was being read when they came.
"""

from __future__ import annotations

import array
import asyncio
import io
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from chdebugd.control import close_all
from chdebugd.dbus_library import (
    HeaderField,
    Message,
    MessageFlag,
    MessageType,
    SignatureTree,
    Unmarshaller,
)

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 256 * 1024  # bytes; a command line of 64 KiB and a hundred disks fit
AT_ONCE = 16 * 1024  # bytes; longer messages are taken apart on a thread
TURN = 256 * 1024  # bytes that one turn of the loop reads
CHUNK = 64 * 1024
FDS_MAX = 253  # what one recvmsg can bring (unix(7), SCM_MAX_FD)
SIGNATURES_MAX = 1024
FIXED = struct.Struct("4xIII")  # body's length, serial, fields' length (D-Bus specification)
FIXED_SIZE = 16
LITTLE_ENDIAN = ord("l")


class Frame(NamedTuple):
    """One message as it came. `is_whole` is false for one without its body: it was too long."""

    data: bytes
    fds: list[int]
    is_whole: bool


class MessageReader:
    """Reads a non-blocking socket when it can be read."""

    def __init__(
        self,
        sock: socket.socket,
        take: Callable[[Message], None],
        refuse: Callable[[Message], None],
    ) -> None:
        """`take` gets each message, `refuse` the ones that were too long, without their bodies."""
        self._socket = sock
        self._take = take
        self._refuse = refuse
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._skip = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def read(self) -> None:
        """Take what is there, up to a bound; raises EOFError or OSError at the end of the line."""
        for _ in range(TURN // CHUNK):
            try:
                data = self._receive()
            except BlockingIOError:
                return
            if not data:
                raise EOFError("The bus hung up")
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            self._buffer += data[skipped:]
            while (frame := self._next_frame()) is not None:
                self._dispatch(frame)
            if len(data) < CHUNK:
                return

    def _receive(self) -> bytes:
        room = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
        data, ancillary, _, _ = self._socket.recvmsg(CHUNK, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        return data

    def _next_frame(self) -> Frame | None:
        """Cut one message off the buffer, None where none is whole yet."""
        buffer = self._buffer
        if len(buffer) < FIXED_SIZE:
            return None
        order = "<" if buffer[0] == LITTLE_ENDIAN else ">"
        body, _, fields = struct.unpack_from(order + FIXED.format, buffer)
        head = FIXED_SIZE + fields + (-fields) % 8
        is_whole = head + body <= MESSAGE_LIMIT
        if head > MESSAGE_LIMIT:
            raise EOFError("The bus sent a header without end")
        size = head + body if is_whole else head
        if len(buffer) < size:
            return None
        data = bytes(buffer[:size])
        if not is_whole:
            size = min(len(buffer), head + body)
            self._skip = head + body - size
        del buffer[:size]
        return Frame(data, self._fds_of(data), is_whole)

    def _fds_of(self, data: bytes) -> list[int]:
        """As many as the header counts; they came with the message or before it."""
        if not self._fds:
            return []
        count = _header(data)[1].get(HeaderField.UNIX_FDS.value, 0)
        return [self._fds.popleft() for _ in range(min(int(count), len(self._fds)))]

    def _dispatch(self, frame: Frame) -> None:
        if len(frame.data) <= AT_ONCE:
            self._hand_on(frame, _message_or_none(frame))
            return
        task = asyncio.create_task(self._unpack_aside(frame))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unpack_aside(self, frame: Frame) -> None:
        self._hand_on(frame, await asyncio.to_thread(_message_or_none, frame))

    def _hand_on(self, frame: Frame, message: Message | None) -> None:
        if message is None:
            close_all(frame.fds)
        elif frame.is_whole:
            self._take(message)
        else:
            self._refuse(message)

    def close(self) -> None:
        """Close descriptors whose message never came."""
        close_all(list(self._fds))
        self._fds.clear()


def _header(data: bytes) -> tuple[Any, dict[int, Any]]:
    """An unmarshaller that stands behind the header, and the header's fields by their numbers."""
    reader = Unmarshaller(io.BytesIO(data))
    reader.read(len(data), prefetch=True)
    reader.endian = data[0]
    reader.offset = FIXED_SIZE - 4
    kind = SignatureTree._get("a(yv)").types[0]
    fields = {number: variant.value for number, variant in reader.read_argument(kind)}
    reader.align(8)
    return reader, fields


def _message_or_none(frame: Frame) -> Message | None:
    """The message; None for what this version of D-Bus has no name for, which is to be ignored."""
    try:
        return _message(frame)
    except Exception as error:
        log.debug("A message of the bus cannot be read: %s, ignoring", error)
        return None


def _message(frame: Frame) -> Message:
    if len(SignatureTree._cache) > SIGNATURES_MAX:
        SignatureTree._cache.clear()  # callers choose signatures, and it has no bound
    reader, fields = _header(frame.data)
    signature = SignatureTree._get(fields.get(HeaderField.SIGNATURE.value, ""))
    has_body = frame.is_whole and reader.offset < len(frame.data)
    _, serial, _ = struct.unpack_from(
        ("<" if frame.data[0] == LITTLE_ENDIAN else ">") + FIXED.format, frame.data
    )
    return Message(
        destination=fields.get(HeaderField.DESTINATION.value),
        path=fields.get(HeaderField.PATH.value),
        interface=fields.get(HeaderField.INTERFACE.value),
        member=fields.get(HeaderField.MEMBER.value),
        message_type=MessageType(frame.data[1]),
        flags=MessageFlag(frame.data[2]),
        error_name=fields.get(HeaderField.ERROR_NAME.value),
        reply_serial=fields.get(HeaderField.REPLY_SERIAL.value),
        sender=fields.get(HeaderField.SENDER.value),
        unix_fds=frame.fds,
        signature=signature,
        body=[reader.read_argument(each) for each in signature.types] if has_body else [],
        serial=serial,
    )
