"""The daemon: what starts and stops in which order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from chdebugd import log as log_setup
from chdebugd.bus_dbus import Bus, CallError, to_broker
from chdebugd.control import VMS_DIR
from chdebugd.dbus_library import NameFlag, RequestNameReply
from chdebugd.files import FileOpener
from chdebugd.launcher import ChildLauncher, Launcher
from chdebugd.limits import CONFIG, Limits, load_limits
from chdebugd.logcontrol_dbus import LOG_CONTROL_PATH, LogControlFace
from chdebugd.manager import Manager
from chdebugd.manager_dbus import BusWatcher, ManagerFace
from chdebugd.object_path import MANAGER_PATH
from chdebugd.polkit_dbus import Authority
from chdebugd.recovery import Recovery
from chdebugd.server_dbus import Server
from chdebugd.systemd_dbus import JOURNALD_PATH, SystemdLauncher, main_pid
from chdebugd.systemd_notify import notify, watchdog_usec

log = logging.getLogger(__name__)
T = TypeVar("T")
BUS_NAME = "org.chdebugd1"
RECONNECT = 1.0  # seconds between two looks for a bus that is gone
TAKEOVER_TIMEOUT = 3.0  # seconds for takeovers: systemd forgets the rings of a unit that it stops
FLUSH_TIMEOUT = 1.0  # seconds that a bus which lags may take for the last signals


@dataclass(frozen=True)
class Settings:
    """From the command line."""

    bus: str | None
    """An address; None is the system bus."""
    runtime_dir: Path
    log_dir: Path
    journal: str
    config: Path = CONFIG


class StartupError(Exception):
    """The daemon cannot run; the sentence says why."""


async def run(settings: Settings) -> int:
    """Serve until SIGTERM. VM processes live on either way.

    Where the bus hangs up, systemd starts us anew (exit status 1); without systemd we wait for the
    bus to come back.
    """
    log_setup.set_up(settings.journal)
    limits = load_limits(settings.config)
    (settings.runtime_dir / VMS_DIR).mkdir(parents=True, exist_ok=True, mode=0o700)
    _lock(settings.runtime_dir)
    stop = _watch_stop()
    children, recovery = ChildLauncher(settings.runtime_dir), Recovery(settings.journal)
    _ping_watchdog()
    bus = await _unless(stop, _connect(settings.bus))
    while bus is not None:
        try:
            opened = await _unless(stop, _open(bus, settings, limits, children, recovery))
        except (CallError, StartupError):
            if not bus.is_over:
                raise
        else:
            if opened is None:
                break
            manager, watcher = opened
            if not await _hangs_up(bus, stop):
                notify("STOPPING=1")
                await manager.finish_takeovers(TAKEOVER_TIMEOUT)
                await _close(bus, watcher)
                manager.close()
                return 0
            _let_go(bus, manager, watcher)
        bus.close()
        log.error("The bus hung up; VMs run on, and the next chdebugd finds them")
        if _is_unit(settings):
            return 1
        bus = await _unless(stop, _connect_again(settings.bus))
    notify("STOPPING=1")
    return 0


def _lock(runtime_dir: Path) -> None:
    """Two daemons would take the VM processes from each other. Held until this process ends."""
    fd = os.open(runtime_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StartupError(
            f"Another chdebugd uses {runtime_dir}; stop it, or give another --runtime-dir"
        ) from None


async def _open(
    bus: Bus, settings: Settings, limits: Limits, children: ChildLauncher, recovery: Recovery
) -> tuple[Manager, BusWatcher]:
    """Put all in place on this bus, its name last."""
    launcher: Launcher = children
    if _is_unit(settings):
        launcher = await _unit_launcher(bus)
    watcher = BusWatcher()
    manager = Manager(
        settings.runtime_dir,
        FileOpener(settings.log_dir),
        limits,
        launcher,
        watcher,
        recovery,
        journal=settings.journal,
    )
    authority = Authority(bus)
    server = Server(bus, MANAGER_PATH, authority.check, limits.requests_per_caller)
    watcher.connect(server, manager)
    server.publish(MANAGER_PATH, ManagerFace(manager, authority))
    server.publish(LOG_CONTROL_PATH, LogControlFace())
    try:
        await manager.adopt_all()
        if _is_unit(settings):
            manager.watch_journald(partial(main_pid, bus, JOURNALD_PATH))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, manager)
        await _own_name(bus)
    except BaseException:
        _let_go(bus, manager, watcher)
        raise
    watcher.open()
    notify(f"READY=1\nSTATUS={len(manager.vms)} VMs")
    return manager, watcher


async def _connect(address: str | None) -> Bus:
    try:
        return await Bus.reached(address)
    except Exception as error:
        where = address or "the system bus"
        raise StartupError(f"Cannot connect to {where}: {error}; is a dbus-daemon there?") from None


async def _connect_again(address: str | None) -> Bus:
    """As soon as there is a bus again."""
    while True:
        try:
            return await _connect(address)
        except StartupError:
            await asyncio.sleep(RECONNECT)


def _is_unit(settings: Settings) -> bool:
    """Whether systemd runs us, on the system bus: then VM processes are units, too."""
    return settings.bus is None and "INVOCATION_ID" in os.environ


async def _unit_launcher(bus: Bus) -> SystemdLauncher:
    launcher = SystemdLauncher(bus)
    try:
        await launcher.subscribe()
    except CallError as error:
        raise StartupError(f"systemd does not answer on the bus: {error}; start it") from None
    return launcher


async def _own_name(bus: Bus) -> None:
    """Last, as daemon(7) asks: callers that the bus holds back find everything in place."""
    ask = to_broker("RequestName", "su", BUS_NAME, NameFlag.DO_NOT_QUEUE.value)
    [reply] = await bus.request(ask)
    if reply not in (RequestNameReply.PRIMARY_OWNER.value, RequestNameReply.ALREADY_OWNER.value):
        raise StartupError(f"{BUS_NAME} is owned by another process; stop that chdebugd first")


def _watch_stop() -> asyncio.Event:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _unless(stop: asyncio.Event, step: Coroutine[Any, Any, T]) -> T | None:
    """What `step` results in; None where a signal to stop comes first: a bus may never answer."""
    going, stopped = asyncio.ensure_future(step), asyncio.create_task(stop.wait())
    await asyncio.wait([going, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if going.done():
        return going.result()
    going.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await going
    return None


def _reload(manager: Manager) -> None:
    notify("RELOADING=1")
    manager.reopen_logs()
    notify("READY=1")


def _ping_watchdog() -> None:
    """From the loop itself: a loop that hangs does not ping."""
    usec = watchdog_usec()
    if usec:
        notify("WATCHDOG=1")
        asyncio.get_running_loop().call_later(usec / 2e6, _ping_watchdog)


async def _hangs_up(bus: Bus, stop: asyncio.Event) -> bool:
    """Wait for a signal (False), or for the end of the connection."""
    stopped = asyncio.create_task(stop.wait())
    gone = asyncio.ensure_future(bus.wait_for_disconnect())
    done, waiting = await asyncio.wait([stopped, gone], return_when=asyncio.FIRST_COMPLETED)
    for each in waiting - {gone}:
        each.cancel()
    return stopped not in done


def _let_go(bus: Bus, manager: Manager, watcher: BusWatcher) -> None:
    """Of a bus that is over, and of all VMs: what it has not got, the next connection sends."""
    watcher.close()
    bus.writer.give_up()
    manager.close()


async def _close(bus: Bus, watcher: BusWatcher) -> None:
    """Send what is due, as far as the bus takes it in time, and hang up."""
    watcher.close()
    await bus.writer.flush(FLUSH_TIMEOUT)
    bus.writer.give_up()
    bus.disconnect()
    await bus.wait_for_disconnect()
