"""What the daemon and a VM process say to each other: JSON in SEQPACKET messages, with descriptors.

daemon -> VM process   {"id": 7, "op": "start", ...}          descriptors of the request's files
VM process -> daemon   {"hello": {...status}, "keep": {...}}  the ring, the eventfd of signals
                       {"id": 7} or {"id": 7, "error": "InvalidImage", "message": "..."}
                       {"status": {...}}                      at each change
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from chdebugd.errors import ChdebugdError, error_by_name
from chdebugd.state import State

INLINE_LIMIT = 32 * 1024  # bytes; what is longer goes in a memfd
MESSAGE_LIMIT = 4 * 1024 * 1024  # bytes; a command line of 64 KiB is six times as long in JSON
IN_MEMFD = b"@"  # instead of the message, which is in the first descriptor
FDS_LIMIT = 64
TERMINALS_LIMIT = 16
TEXT_LIMIT = 4096  # characters of a text of a status
VMS_DIR = "vm"
"""In the runtime directory: a directory for each VM, all that its process sees of it."""
SOCKET = "sock"
"""In the VM's directory: where its process listens."""
LAST_WORDS = "last-words.json"
"""Beside the socket, left by a process that ended: its status and counts."""
EXIT_COST = "exit-cost.json"
"""In the runtime directory, and lent to each VM's: what one exit costs on this host."""
_CREDENTIALS = struct.Struct("3i")

Message = dict[str, Any]


class Channel:
    """One end of the conversation. Non-blocking; messages come whole or not at all."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * INLINE_LIMIT)

    def fileno(self) -> int:
        """To wait for messages."""
        return self._socket.fileno()

    def peer(self) -> tuple[int, int]:
        """Process and user at the other end, who connected or listened (unix(7), SO_PEERCRED)."""
        size = _CREDENTIALS.size
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _ = _CREDENTIALS.unpack(data)
        return pid, uid

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        """Send one message; raises OSError where the other end is gone or does not read."""
        data = json.dumps(message).encode()
        if len(data) <= INLINE_LIMIT:
            socket.send_fds(self._socket, [data], fds or [])
            return
        memfd = os.memfd_create("chdebugd-message", os.MFD_CLOEXEC)
        try:
            os.pwrite(memfd, data, 0)
            socket.send_fds(self._socket, [IN_MEMFD], [memfd, *(fds or [])])
        finally:
            os.close(memfd)

    def receive(self) -> tuple[Message, list[int]] | None:
        """One message and its descriptors, now the caller's; None at the end.

        Raises BlockingIOError where nothing is there.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, 2 * INLINE_LIMIT, FDS_LIMIT)
        except ConnectionError:
            return None
        if not data:
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("truncated")
            message = json.loads(_from_memfd(fds) if data == IN_MEMFD else data)
        except (ValueError, OSError, RecursionError):
            close_all(fds)
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        return message, fds

    def close(self) -> None:
        """Close this end; twice is fine."""
        self._socket.close()


def _from_memfd(fds: list[int]) -> bytes:
    """The message in the first descriptor, which is closed; raises ValueError or OSError."""
    if not fds:
        raise ValueError("no descriptor")
    memfd = fds.pop(0)
    try:
        fcntl.fcntl(memfd, fcntl.F_GET_SEALS)  # fails for all else, which might make us wait
        return os.pread(memfd, MESSAGE_LIMIT, 0)
    finally:
        os.close(memfd)


def close_all(fds: list[int]) -> None:
    """Close descriptors that nobody took."""
    for fd in fds:
        os.close(fd)


def error_message(error: ChdebugdError) -> Message:
    """An error as it travels in a reply."""
    return {"error": error.name, "message": str(error)}


def error_of(reply: Message) -> ChdebugdError | None:
    """The error in a reply, None where it went well."""
    if "error" not in reply:
        return None
    return error_by_name(str(reply["error"]), str(reply.get("message", "")))


class FileRole(NamedTuple):
    """What one descriptor of a start request is for."""

    role: str
    """kernel, initrd, firmware, log-file, serial, debug-console, firmware-debug, disk or tap."""
    name: str
    """For messages: the path, or `descriptor`."""
    readonly: bool = True
    id: str = ""
    mac: str = ""


class StartRequest(NamedTuple):
    """What a VM process needs to know to boot. Sizes in bytes."""

    cpus: int = 1
    memory: int = 512 << 20
    cmdline: str = ""
    rng: bool = False
    serial: str = "off"
    debug_console: str = "off"
    firmware_debug: str = "off"
    log_level: str = "debug"
    code_map: str = ""
    on_full: str = "wait"
    requested_nsec: int = 0
    """CLOCK_MONOTONIC when the daemon took up the request; 0 where nobody asked."""
    journal: str = ""
    """Path of journald's socket where it is not the usual one."""
    file_limit: int = 0
    """Bytes that a log or text file may have; 0 is no limit."""
    keep: Mapping[str, Any] = MappingProxyType({})
    """What the daemon wants back in each hello: it may be another daemon by then."""
    files: tuple[FileRole, ...] = ()
    """In the order of the descriptors."""

    def to_message(self) -> Message:
        """As plain JSON values."""
        return self._asdict() | {
            "keep": dict(self.keep),
            "files": [each._asdict() for each in self.files],
        }

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """The request that `to_message` made."""
        files = tuple(FileRole(**each) for each in message.pop("files"))
        return cls(files=files, **message)


class Status(NamedTuple):
    """What a VM process tells of itself; counts of events are in the ring."""

    state: str = "created"
    result: str = ""
    sentence: str = ""
    terminals: Mapping[str, str] = MappingProxyType({})
    """Paths of ptys by text port."""
    exit_cost_nsec: int = 0

    def to_message(self) -> Message:
        """As plain JSON values."""
        return self._asdict() | {"terminals": dict(self.terminals)}

    @classmethod
    def from_message(cls, message: object) -> Self:
        """The status in a message; raises ValueError where it cannot be one.

        Fields that this version does not know are left out, missing ones have their defaults.
        """
        if not isinstance(message, dict):
            raise ValueError("A status must be an object")
        status = cls(**{name: message[name] for name in cls._fields if name in message})
        State(status.state)
        if not isinstance(status.terminals, Mapping) or len(status.terminals) > TERMINALS_LIMIT:
            raise ValueError("A status has a small table")
        check_figure(status.exit_cost_nsec, 64)
        for text in (status.result, status.sentence, *status.terminals, *status.terminals.values()):
            check_text(text)
        return status


def check_figure(figure: object, bits: int) -> None:
    """Raise ValueError unless it is an unsigned number of so many bits, as D-Bus has them."""
    if type(figure) is not int or not 0 <= figure < 1 << bits:
        raise ValueError(f"A figure must have {bits} bits")


def check_text(text: object) -> None:
    """Raise ValueError unless it may go on D-Bus, which hangs up on a sender of other strings."""
    if not isinstance(text, str) or len(text) > TEXT_LIMIT or "\0" in text:
        raise ValueError("A text must be short and without NUL")
    text.encode()  # raises where it has half a character: UnicodeEncodeError is a ValueError
