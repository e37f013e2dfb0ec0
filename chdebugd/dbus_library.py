"""The one door to dbus-next.

Its package loads GLib's bindings wherever they are installed: ten megabytes that nobody uses here.
"""

from __future__ import annotations

import sys

_gi = sys.modules.get("gi")
sys.modules["gi"] = None  # type: ignore[assignment]

from dbus_next import (  # noqa: E402
    BusType,
    ErrorType,
    Message,
    MessageFlag,
    MessageType,
    NameFlag,
    RequestNameReply,
    Variant,
)
from dbus_next._private.constants import HeaderField  # noqa: E402
from dbus_next._private.unmarshaller import Unmarshaller  # noqa: E402
from dbus_next.aio import MessageBus as _MessageBus  # noqa: E402
from dbus_next.aio.message_bus import _MessageWriter as MessageWriter  # noqa: E402
from dbus_next.signature import SignatureTree  # noqa: E402

if _gi is None:
    del sys.modules["gi"]
else:
    sys.modules["gi"] = _gi


class MessageBus(_MessageBus):  # type: ignore[misc]
    """dbus-next's connection, whose reader of the authentication spins where the bus hangs up."""

    async def _auth_readline(self) -> str:
        line = b""
        while not line.endswith(b"\r\n"):
            byte = await self._loop.sock_recv(self._sock, 1)
            if not byte:
                raise ConnectionError("The bus hung up during authentication")
            line += byte
        return line[:-2].decode()


__all__ = [
    "BusType",
    "ErrorType",
    "HeaderField",
    "Message",
    "MessageBus",
    "MessageFlag",
    "MessageType",
    "MessageWriter",
    "NameFlag",
    "RequestNameReply",
    "SignatureTree",
    "Unmarshaller",
    "Variant",
]
