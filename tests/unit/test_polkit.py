"""What becomes of a caller whom polkit refuses, does not know, or does not answer about."""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast

import pytest

from chdebugd.bus_dbus import Bus, CallError
from chdebugd.dbus_library import Message, Variant
from chdebugd.errors import AccessDeniedError
from chdebugd.polkit_dbus import GROUP, OPEN_FILES, TIMEOUT, Authority
from chdebugd.server_dbus import Call

UID = 12345
STANDARD = "org.freedesktop.DBus.Error."


class SmallBus:
    """A bus with one caller and, perhaps, polkit: a real one cannot be told to hang."""

    def __init__(self, polkit: Any, uid: int | None = UID, groups: list[int] | None = None) -> None:
        self._polkit = polkit
        self._credentials = {} if uid is None else {"UnixUserID": Variant("u", uid)}
        self._credentials["UnixGroupIDs"] = Variant("au", groups or [])
        self.is_challenge = False
        self.limits: list[float | None] = []
        self.flags: list[int] = []

    async def request(self, message: Message, *, within: float | None = None) -> list[Any]:
        self.limits.append(within)
        if message.member == "GetConnectionCredentials":
            return [self._credentials]
        if isinstance(self._polkit, CallError):
            raise self._polkit
        self.flags.append(message.body[3])
        return [[self._polkit, self.is_challenge, {}]]


def check(bus: SmallBus, action: str = "start-vm") -> None:
    call = Call(":1.7", False, [])
    asyncio.run(Authority(cast(Bus, bus)).check(call, action))


def test_polkit_allows() -> None:
    check(SmallBus(True))


@pytest.mark.parametrize("uid", [0, os.getuid()])
def test_root_and_the_daemons_own_user_need_no_polkit(uid: int) -> None:
    bus = SmallBus(False, uid)

    check(bus)

    assert len(bus.limits) == 1


def test_a_call_that_needs_two_permissions_asks_the_bus_once_who_calls() -> None:
    bus = SmallBus(False, 0)
    call, authority = Call(":1.7", False, []), Authority(cast(Bus, bus))

    async def check_both() -> int:
        await authority.check(call, "start-vm")
        await authority.check(call, OPEN_FILES)
        return await authority.uid_of(call)

    assert asyncio.run(check_both()) == 0
    assert len(bus.limits) == 1


@pytest.mark.parametrize(
    "polkit",
    [
        False,
        CallError(STANDARD + "NoReply", "It hangs"),
        CallError(STANDARD + "AccessDenied", "It does not like us"),
        CallError("org.freedesktop.PolicyKit1.Error.Failed", "It is confused"),
        CallError(STANDARD + "ServiceUnknown", "There is none"),
    ],
)
def test_whatever_else_polkit_says_is_a_refusal(polkit: bool | CallError) -> None:
    with pytest.raises(AccessDeniedError):
        check(SmallBus(polkit))


def test_every_question_has_a_limit_of_time() -> None:
    bus = SmallBus(True)

    check(bus)

    assert len(bus.limits) == 2
    assert all(bus.limits)


@pytest.mark.parametrize(
    ("interactive", "is_challenge", "flags"),
    [(True, True, [0, 1]), (True, False, [0]), (False, True, [0])],
)
def test_polkit_may_take_the_time_of_a_dialog_only_once_it_wants_one(
    interactive: bool, is_challenge: bool, flags: list[int]
) -> None:
    bus = SmallBus(False)
    bus.is_challenge = is_challenge

    with pytest.raises(AccessDeniedError):
        asyncio.run(Authority(cast(Bus, bus)).check(Call(":1.7", interactive, []), "start-vm"))

    assert bus.flags == flags
    assert bus.limits[1] == TIMEOUT


def test_without_polkit_the_group_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        gr_gid = 777

    monkeypatch.setattr("grp.getgrnam", lambda name: {GROUP: Entry}[name])
    nobody_there = CallError(STANDARD + "ServiceUnknown", "There is none")

    check(SmallBus(nobody_there, groups=[5, 777]))

    with pytest.raises(AccessDeniedError, match="join the group"):
        check(SmallBus(nobody_there, groups=[5]))
    with pytest.raises(AccessDeniedError, match="descriptor"):
        check(SmallBus(nobody_there, groups=[777]), OPEN_FILES)


def test_a_caller_whom_the_bus_does_not_know_is_refused() -> None:
    with pytest.raises(AccessDeniedError, match="does not know"):
        check(SmallBus(True, uid=None))
