"""org.freedesktop.LogControl1, for `systemctl service-log-level chdebugd debug`."""

from __future__ import annotations

from dataclasses import dataclass

from chdebugd import log
from chdebugd.dbus_library import ErrorType
from chdebugd.face_dbus import Face, prop, writable
from chdebugd.object_tree_dbus import CallRefusedError
from chdebugd.trace.journal import IDENTIFIER

LOG_CONTROL_PATH = "/org/freedesktop/LogControl1"


@dataclass
class LogControlFace(Face):
    """The three properties of org.freedesktop.LogControl1(5)."""

    INTERFACE = "org.freedesktop.LogControl1"

    @prop("s", "false")
    def LogLevel(self) -> str:
        return log.level()

    @prop("s", "false")
    def LogTarget(self) -> str:
        return log.target()

    @prop("s", "const")
    def SyslogIdentifier(self) -> str:
        return IDENTIFIER


def _set_level(face: LogControlFace, name: str) -> None:
    try:
        log.set_level(name)
    except ValueError as error:
        raise CallRefusedError(ErrorType.INVALID_ARGS, str(error)) from None


writable(LogControlFace.LogLevel, _set_level, "control-vm")
