"""DebugEvent signals, marshalled once for each kind and patched for each event.

dbus-next takes 80 us to marshal one signal. Two of them differ in a few fields of fixed size only
(serial, seq, elapsed, vCPU), so the bytes of the first serve all others with the same path, code
and name.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable

from chdebugd.bus_dbus import Bus
from chdebugd.dbus_library import Message, Variant
from chdebugd.face_dbus import Signal
from chdebugd.trace.event import COMPONENT_OF, Event

INTERFACE = "org.chdebugd1.VM"
DEBUG_EVENT = Signal(
    "DebugEvent",
    (
        ("seq", "t"),
        ("elapsed_nsec", "t"),
        ("code", "y"),
        ("component", "s"),
        ("details", "a{sv}"),
    ),
)
SIGNATURE = "".join(kind for _, kind in DEBUG_EVENT.carries)
SERIAL_AT = 8  # D-Bus specification, message format
VCPU_MARK = 0xC0DEC0DE  # no vCPU has this number


def details(event: Event, name: str | None) -> dict[str, Variant]:
    """The last argument of a signal, and of an entry of GetEvents."""
    found = {"vcpu": Variant("u", event.vcpu)}
    return found | {"name": Variant("s", name)} if name else found


class EventSignals:
    """The signals of one VM's object. `name_of` names a code, or gives None."""

    def __init__(self, bus: Bus, path: str, names: dict[int, str]) -> None:
        self._bus = bus
        self._path = path
        self._names = names
        self._templates: dict[int, tuple[bytearray, int, int]] = {}

    def emit(self, events: list[Event], unsent: Callable[[int], None]) -> None:
        """Queue a signal for each event.

        Where the connection ends before all are sent, `unsent` is told the index of the first.
        """
        out = bytearray()
        ends: list[int] = []
        for event in events:
            if event.code not in self._templates:
                self._templates[event.code] = self._template(event.code)
            message, body_at, vcpu_at = self._templates[event.code]
            struct.pack_into("<I", message, SERIAL_AT, self._bus.next_serial())
            struct.pack_into("<QQ", message, body_at, event.seq, event.elapsed_nsec)
            struct.pack_into("<I", message, vcpu_at, event.vcpu)
            out += message
            ends.append(len(out))
        self._bus.writer.put(bytes(out), lambda sent: unsent(bisect_right(ends, sent)))

    def _template(self, code: int) -> tuple[bytearray, int, int]:
        """The message, and where its body and the vCPU's number are."""
        event = Event(0, 0, 0, 0, VCPU_MARK, code)
        body = [0, 0, code, COMPONENT_OF[code], details(event, self._names.get(code))]
        message = Message.new_signal(self._path, INTERFACE, DEBUG_EVENT.name, SIGNATURE, body)
        message.serial = 1
        data = bytearray(message._marshall())
        (body_size,) = struct.unpack_from("<I", data, 4)
        return data, len(data) - body_size, data.index(struct.pack("<I", VCPU_MARK))
