"""Entries for journald, over its native protocol on a socket that never blocks.

python-systemd's sender would hold the GIL on a blocking socket, and with it the vCPU threads, as
long as journald is stopped. The protocol is documented (systemd, JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from enum import StrEnum

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "chdebugd"
SEND_BUFFER = 8 * 1024 * 1024  # as libsystemd asks for; the kernel gives what it allows

ERR, WARNING, INFO, DEBUG = 3, 4, 6, 7
LEVELS = {"error": ERR, "warning": WARNING, "info": INFO, "debug": DEBUG}


class MessageId(StrEnum):
    """What kind of entry it is; units/chdebugd.catalog explains each to people."""

    EVENT = "a1c7b8d2e0f74b7f9d5f3c6e80de0001"
    VM_STARTED = "a1c7b8d2e0f74b7f9d5f3c6e80de0002"
    VM_STOPPED = "a1c7b8d2e0f74b7f9d5f3c6e80de0003"
    VM_FAILED = "a1c7b8d2e0f74b7f9d5f3c6e80de0004"
    HOST_PHASE = "a1c7b8d2e0f74b7f9d5f3c6e80de0005"
    VM_STALLED = "a1c7b8d2e0f74b7f9d5f3c6e80de0006"
    VM_DROPPED = "a1c7b8d2e0f74b7f9d5f3c6e80de0007"
    VM_RESET = "a1c7b8d2e0f74b7f9d5f3c6e80de0008"
    VM_STATE = "a1c7b8d2e0f74b7f9d5f3c6e80de0009"
    LOG_FILE_ERROR = "a1c7b8d2e0f74b7f9d5f3c6e80de000a"
    GUEST_TEXT = "a1c7b8d2e0f74b7f9d5f3c6e80de000b"
    RECOVERED = "a1c7b8d2e0f74b7f9d5f3c6e80de000c"
    EXIT_COST = "a1c7b8d2e0f74b7f9d5f3c6e80de000d"
    TAKEOVER = "a1c7b8d2e0f74b7f9d5f3c6e80de000e"
    RING_LOST = "a1c7b8d2e0f74b7f9d5f3c6e80de000f"
    PORT_PASSES_THROUGH = "a1c7b8d2e0f74b7f9d5f3c6e80de0010"
    DISK_ERROR = "a1c7b8d2e0f74b7f9d5f3c6e80de0011"
    TEXT_SUPPRESSED = "a1c7b8d2e0f74b7f9d5f3c6e80de0012"
    ENTRIES_LOST = "a1c7b8d2e0f74b7f9d5f3c6e80de0013"
    JOURNALD_DIED = "a1c7b8d2e0f74b7f9d5f3c6e80de0014"
    SENT_AGAIN = "a1c7b8d2e0f74b7f9d5f3c6e80de0015"


def field(name: str, value: str) -> bytes:
    """One field of an entry; a value with a line break in it goes by its length."""
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def entry(message: str, priority: int, fields: dict[str, str]) -> bytes:
    """A whole entry under our identifier."""
    head = f"SYSLOG_IDENTIFIER={IDENTIFIER}\nPRIORITY={priority}\n".encode()
    return head + field("MESSAGE", message) + b"".join(field(*item) for item in fields.items())


class Journal:
    """A sender. Where there is no journald at all, entries are thrown away."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.exists = True
        self._is_connected = False
        try:
            self._connect()
        except FileNotFoundError:
            self.exists = False
        except ConnectionRefusedError:
            pass  # journald is between two lives; send tries again

    def _connect(self) -> None:
        self._socket.connect(self._path)
        self._is_connected = True

    def connect(self) -> bool:
        """Whether entries can be sent; where not, come back after a while."""
        if not self._is_connected:
            with contextlib.suppress(OSError):
                self._connect()
        return self._is_connected

    def disconnect(self) -> None:
        """journald's socket is gone or new: connect again at the next try."""
        self._is_connected = False

    def fileno(self) -> int:
        """To wait for room: it is writable once journald has read."""
        return self._socket.fileno()

    @property
    def is_connected(self) -> bool:
        """False where nobody can say when to try again: come back after a while."""
        return self._is_connected

    def send(self, data: bytes) -> bool:
        """Send one entry; False where journald cannot take it now, and it must be sent again."""
        if not self.exists:
            return True
        if not self.connect():
            return False
        try:
            self._socket.send(data)
        except BlockingIOError:
            return False
        except OSError:
            self.disconnect()
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()
