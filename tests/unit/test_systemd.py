"""What a start says that systemd refuses, and how it learns of the end of a job."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from chdebugd.bus_dbus import NO_REPLY, Bus, CallError
from chdebugd.dbus_library import Message, Variant
from chdebugd.errors import StartFailedError
from chdebugd.systemd_dbus import SystemdLauncher

STANDARD = "org.freedesktop.DBus.Error."
POLKIT = ", and systemctl status polkit, which systemd asks"
SYSTEMD = ":1.0"


class SmallBus:
    """A bus with a systemd that refuses: a real one does not on request, and polkit hangs 20 s."""

    def __init__(self, refusal: CallError, *, hangs_up: bool = False) -> None:
        self._refusal = refusal
        self._hangs_up = hangs_up
        self.is_over = False

    def add_message_handler(self, _: object) -> None:
        """No job ends here."""

    async def request(self, message: Message, *, within: float | None = None) -> list[Any]:
        if message.member == "GetNameOwner":
            return [SYSTEMD]
        self.is_over = self._hangs_up
        raise self._refusal


def refusal(bus: SmallBus) -> str:
    with pytest.raises(StartFailedError) as refused:
        asyncio.run(SystemdLauncher(cast(Bus, bus)).start("web"))
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (NO_REPLY, "no answer within 20 s"),
        (STANDARD + "AccessDenied", "Access denied"),
        (STANDARD + "InteractiveAuthorizationRequired", "Interactive authentication required."),
        ("org.freedesktop.PolicyKit1.Error.Failed", "Action is not registered"),
        ("org.freedesktop.systemd1.UnitMasked", "Unit polkit.service is masked."),
    ],
)
def test_it_names_polkit(name: str, text: str) -> None:
    said = refusal(SmallBus(CallError(name, text)))

    assert said == (
        f"systemd did not start chdebugd-vm@web.service: {text}; "
        f"see journalctl -u chdebugd-vm@web.service{POLKIT}"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("org.freedesktop.systemd1.UnitMasked", "Unit chdebugd-vm@web.service is masked."),
        ("org.freedesktop.systemd1.NoSuchUnit", "Unit chdebugd-vm@web.service not found."),
        (STANDARD + "InvalidArgs", "Unit name is not valid."),
    ],
)
def test_it_does_not_name_polkit(name: str, text: str) -> None:
    said = refusal(SmallBus(CallError(name, text)))

    assert said.endswith(f": {text}; see journalctl -u chdebugd-vm@web.service")


def test_a_bus_that_hangs_up_is_not_polkits_doing() -> None:
    said = refusal(SmallBus(CallError(NO_REPLY, "the bus hung up"), hangs_up=True))

    assert "polkit" not in said


class BusyBus(SmallBus):
    """Its systemd has a job that ends unheard."""

    def __init__(self) -> None:
        super().__init__(CallError(NO_REPLY, ""))
        self.states = ["activating", "active"]

    async def request(self, message: Message, *, within: float | None = None) -> list[Any]:
        match message.member:
            case "StartUnit":
                return ["/org/freedesktop/systemd1/job/7"]
            case "Get":
                assert message.body == ["org.freedesktop.systemd1.Unit", "ActiveState"]
                return [Variant("s", self.states.pop(0))]
        return await super().request(message, within=within)


def test_a_unit_whose_job_ended_unheard_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it may where systemd executes itself anew just then."""
    monkeypatch.setattr("chdebugd.systemd_dbus.JOB_LOOK", 0.01)
    bus = BusyBus()

    asyncio.run(SystemdLauncher(cast(Bus, bus)).start("web"))

    assert bus.states == []
