"""Who may do what: root always, else polkit, else the group chdebugd where there is no polkit."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd

from chdebugd.bus_dbus import Bus, CallError, to_broker
from chdebugd.dbus_library import Message, Variant
from chdebugd.errors import AccessDeniedError
from chdebugd.server_dbus import Call

GROUP = "chdebugd"
ACTION_PREFIX = "org.chdebugd1."
OPEN_FILES = "open-files"
TIMEOUT = 20.0  # seconds for an answer of the bus or of polkit
DIALOG_TIMEOUT = 300.0  # seconds for somebody to type a password
ALLOW_INTERACTION = 1  # CheckAuthorizationFlags
NO_POLKIT = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
)
REMEDY = {
    OPEN_FILES: "hand over an open descriptor (type h) instead of a path, or ask as root",
}


class Authority:
    """Asks, and never blocks the loop while somebody types a password."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def uid_of(self, call: Call) -> int:
        """The caller's user; raises AccessDeniedError where the bus cannot tell."""
        return int((await self._credentials(call))["UnixUserID"].value)

    async def check(self, call: Call, action: str) -> None:
        """Raise AccessDeniedError unless the caller may do `action`.

        The subject is the caller's bus name, never its process: process ids are used again.
        """
        credentials = await self._credentials(call)
        uid = int(credentials["UnixUserID"].value)
        if uid in (0, os.getuid()):
            return
        try:
            allowed = await self._ask_polkit(call, ACTION_PREFIX + action)
        except CallError as error:
            if error.name not in NO_POLKIT:
                raise AccessDeniedError(
                    f"polkit could not decide: {error}; see systemctl status polkit, or ask as root"
                ) from None
            allowed = action != OPEN_FILES and await _in_group(uid, credentials)
        if not allowed:
            remedy = REMEDY.get(action, f"join the group {GROUP}, or ask as root")
            raise AccessDeniedError(f"User {uid} may not do {ACTION_PREFIX}{action}; {remedy}")

    async def _credentials(self, call: Call) -> dict[str, Variant]:
        """What the bus knows of the caller (D-Bus specification, GetConnectionCredentials)."""
        if call.credentials:
            return call.credentials
        ask = to_broker("GetConnectionCredentials", "s", call.sender)
        try:
            [credentials] = await self._bus.request(ask, within=TIMEOUT)
        except CallError:
            raise AccessDeniedError("The caller has left the bus; call again") from None
        if "UnixUserID" not in credentials:
            raise AccessDeniedError("The bus does not know the caller's user; use a local bus")
        call.credentials.update(credentials)
        return call.credentials

    async def _ask_polkit(self, call: Call, action: str) -> bool:
        """With a dialog only where polkit needs one: one that hangs fails the question before."""
        is_authorized, is_challenge = await self._check_authorization(call, action, 0, TIMEOUT)
        if is_challenge and call.interactive:
            is_authorized, _ = await self._check_authorization(
                call, action, ALLOW_INTERACTION, DIALOG_TIMEOUT
            )
        return is_authorized

    async def _check_authorization(
        self, call: Call, action: str, flags: int, within: float
    ) -> tuple[bool, bool]:
        """Whether the caller may, and whether a dialog could still tell (polkit(8))."""
        subject = ["system-bus-name", {"name": Variant("s", call.sender)}]
        message = Message(
            destination="org.freedesktop.PolicyKit1",
            path="/org/freedesktop/PolicyKit1/Authority",
            interface="org.freedesktop.PolicyKit1.Authority",
            member="CheckAuthorization",
            signature="(sa{sv})sa{ss}us",
            body=[subject, action, {}, flags, ""],
        )
        [[is_authorized, is_challenge, _]] = await self._bus.request(message, within=within)
        return bool(is_authorized), bool(is_challenge)


async def _in_group(uid: int, credentials: dict[str, Variant]) -> bool:
    """By the groups of the caller's process, or by the data base where the bus does not say."""
    try:
        gid = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return False
    if "UnixGroupIDs" in credentials:
        return gid in credentials["UnixGroupIDs"].value
    return await asyncio.to_thread(_is_member, uid, gid)


def _is_member(uid: int, gid: int) -> bool:
    """May ask a server of the network."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return False
    return gid in os.getgrouplist(user.pw_name, user.pw_gid)
