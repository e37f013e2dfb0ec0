"""Starts VM processes as instances of chdebugd-vm@.service, through systemd's manager."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

from chdebugd.bus_dbus import Bus, CallError, to_broker
from chdebugd.dbus_library import Message, MessageType
from chdebugd.errors import StartFailedError
from chdebugd.launcher import End
from chdebugd.object_path import encode

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"
SERVICE = "org.freedesktop.systemd1.Service"
UNIT_PATH = MANAGER_PATH + "/unit/"
JOURNALD_PATH = UNIT_PATH + encode("systemd-journald.service")
POLKIT = re.compile("polkit|PolicyKit")
ASKED_IN_VAIN = frozenset(
    "org.freedesktop.DBus.Error." + name
    for name in (
        "AccessDenied",
        "InteractiveAuthorizationRequired",
        "NoReply",
        "Timeout",
        "TimedOut",
    )
)
MATCH_JOBS = f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"
BROKER = "org.freedesktop.DBus"
MATCH_OWNER = f"type='signal',sender='{BROKER}',member='NameOwnerChanged',arg0='{SYSTEMD}'"
SIGKILL = 9
CALL_TIMEOUT = 20.0  # seconds; callers of ours wait 25 s (sd_bus_set_method_call_timeout(3))
KILL_TIMEOUT = 3.0  # seconds; a call that systemd takes up later does its work all the same
NAME_TIMEOUT = 10.0  # seconds
NAME_STEP = 0.05  # seconds
END_TIMEOUT = 5.0  # seconds for systemd to tell of an end
END_STEP = 0.02  # seconds between two questions
JOB_LOOK = 5.0  # seconds until a unit is asked whether the end of its job was missed
JOB_TIMEOUT = 100.0  # seconds; longer than systemd itself waits for READY=1


def unit_name(name: str) -> str:
    """The instance for a VM, escaped as systemd.unit(5) has it."""
    escaped = "".join(
        char if (char.isalnum() and char.isascii()) or char in "_." else f"\\x{ord(char):02x}"
        for char in name
    )
    return f"chdebugd-vm@{escaped}.service"


class SystemdLauncher:
    """A start is done when systemd says that its job is: the unit is Type=notify."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._early: dict[str, str] = {}
        self._starting = 0
        self._owner = ""
        bus.add_message_handler(self._owner_changed)
        bus.add_message_handler(self._job_removed)

    async def subscribe(self) -> None:
        """Ask for the end of jobs; once, before the first start."""
        await self._learn_owner()
        for match in (MATCH_OWNER, MATCH_JOBS):
            await self._bus.request(to_broker("AddMatch", "s", match))
        await self._call("Subscribe", "", [])

    async def _learn_owner(self) -> None:
        """Where the bus was just installed, systemd takes its name a moment after us."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + NAME_TIMEOUT
        while True:
            try:
                self._owner = await self._ask_owner()
                return
            except CallError:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(NAME_STEP)

    async def _ask_owner(self) -> str:
        ask = to_broker("GetNameOwner", "s", SYSTEMD)
        [owner] = await self._bus.request(ask, within=CALL_TIMEOUT)
        return str(owner)

    async def start(self, name: str) -> None:
        """Start the instance and wait for its job; raises StartFailedError."""
        unit = unit_name(name)
        self._starting += 1
        try:
            if not self._owner:  # it is off the bus, as during its daemon-reexec
                await self._learn_owner()
            job = await self._start_unit(unit)
            async with asyncio.timeout(JOB_TIMEOUT):
                result = await self._result(job, unit)
        except TimeoutError:
            raise StartFailedError(
                f"{unit} did not start within {JOB_TIMEOUT:.0f} s; see journalctl -u {unit}"
            ) from None
        except CallError as error:
            raise StartFailedError(
                f"systemd cannot start {unit}: {error}; see systemctl status dbus"
            ) from None
        finally:
            self._starting -= 1
            if not self._starting:
                self._early.clear()
        if result != "done":
            raise StartFailedError(f"{unit} did not start ({result}); see journalctl -u {unit}")

    async def _start_unit(self, unit: str) -> str:
        """The job that starts it."""
        try:
            [job] = await self._call("StartUnit", "ss", [unit, "replace"])
        except CallError as error:
            look = f"journalctl -u {unit}"
            if not self._bus.is_over and _may_be_polkits(error):
                look += ", and systemctl status polkit, which systemd asks"
            raise StartFailedError(f"systemd did not start {unit}: {error}; see {look}") from None
        return str(job)

    async def _result(self, job: str, unit: str) -> str:
        """The job may have ended before systemd's answer reached us."""
        if job in self._early:
            return self._early.pop(job)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._jobs[job] = future
        try:
            while not await _is_done(future, JOB_LOOK):
                if await self._is_active(unit):
                    return "done"
            return future.result()
        finally:
            self._jobs.pop(job, None)

    async def _is_active(self, unit: str) -> bool:
        """Systemd that executes itself anew is off the bus for a moment, and tells nothing then."""
        state = ""
        with contextlib.suppress(CallError):
            state = await _ask(self._bus, UNIT_PATH + encode(unit), UNIT, "ActiveState")
        return state == "active"

    def _owner_changed(self, message: Message) -> None:
        """By daemon-reexec systemd gets another unique name, and takes its jobs along."""
        is_signal = message.message_type == MessageType.SIGNAL and message.sender == BROKER
        if is_signal and message.member == "NameOwnerChanged" and message.body[0] == SYSTEMD:
            self._owner = message.body[2]

    def _job_removed(self, message: Message) -> None:
        """Only systemd's word counts: anyone may send a signal to us."""
        is_signal = message.message_type == MessageType.SIGNAL and message.member == "JobRemoved"
        if not is_signal or message.sender != self._owner or message.signature != "uoss":
            return
        _, job, _, result = message.body
        future = self._jobs.get(job)
        if future is not None and not future.done():
            future.set_result(result)
        elif self._starting:
            self._early[job] = result

    async def kill(self, name: str) -> None:
        """SIGKILL to all of the unit, by stopping it; nothing where there is none."""
        try:
            unit = unit_name(name)
            await self._call("KillUnit", "ssi", [unit, "all", SIGKILL], within=KILL_TIMEOUT)
        except CallError:
            return

    def ended(self, name: str) -> None:
        """systemd has seen it for itself."""

    async def how_ended(self, name: str) -> End | None:
        """What the unit says, once systemd has seen it: that may be after us."""
        path = UNIT_PATH + encode(unit_name(name))
        with contextlib.suppress(TimeoutError, CallError):
            async with asyncio.timeout(END_TIMEOUT):
                await self._wait_ended(path)
                result = await _ask(self._bus, path, SERVICE, "Result")
                if result == "oom-kill":
                    return End(SIGKILL, is_out_of_memory=True)
                if result in ("signal", "core-dump"):
                    return End(await _ask(self._bus, path, SERVICE, "ExecMainStatus"))
        return None

    async def _wait_ended(self, path: str) -> None:
        while True:
            if not await _ask(self._bus, path, SERVICE, "MainPID"):
                return
            await asyncio.sleep(END_STEP)

    async def _call(
        self, member: str, signature: str, body: list[Any], within: float = CALL_TIMEOUT
    ) -> list[Any]:
        return await self._bus.request(
            Message(
                destination=SYSTEMD,
                path=MANAGER_PATH,
                interface=MANAGER,
                member=member,
                signature=signature,
                body=body,
            ),
            within=within,
        )


def _may_be_polkits(error: CallError) -> bool:
    """Whether it comes from polkit, or from systemd that asked it in vain."""
    return error.name in ASKED_IN_VAIN or POLKIT.search(f"{error.name} {error}") is not None


async def main_pid(bus: Bus, path: str) -> int:
    """The main process of the service whose object is at `path`; 0 where it has none now."""
    with contextlib.suppress(CallError):
        return int(await _ask(bus, path, SERVICE, "MainPID"))
    return 0


async def _is_done(future: asyncio.Future[str], within: float) -> bool:
    done, _ = await asyncio.wait([future], timeout=within)
    return bool(done)


async def _ask(bus: Bus, path: str, interface: str, name: str) -> Any:
    """A property of the unit whose object is at `path`; raises CallError."""
    ask = Message(
        destination=SYSTEMD,
        path=path,
        interface="org.freedesktop.DBus.Properties",
        member="Get",
        signature="ss",
        body=[interface, name],
    )
    [value] = await bus.request(ask, within=CALL_TIMEOUT)
    return value.value
