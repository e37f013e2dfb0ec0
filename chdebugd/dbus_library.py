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
from dbus_next.aio import MessageBus  # noqa: E402
from dbus_next.aio.message_bus import _MessageWriter as MessageWriter  # noqa: E402
from dbus_next.signature import SignatureTree  # noqa: E402

if _gi is None:
    del sys.modules["gi"]
else:
    sys.modules["gi"] = _gi

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
