"""The daemon: what starts and stops in which order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from chdebugd import log as log_setup
from chdebugd.bus_dbus import Bus
from chdebugd.control import SOCKET_DIR
from chdebugd.dbus_library import NameFlag, RequestNameReply
from chdebugd.files import FileOpener
from chdebugd.launcher import ChildLauncher, Launcher
from chdebugd.limits import CONFIG, load_limits
from chdebugd.logcontrol_dbus import LOG_CONTROL_PATH, LogControlFace
from chdebugd.manager import Manager
from chdebugd.manager_dbus import BusWatcher, ManagerFace
from chdebugd.object_path import MANAGER_PATH
from chdebugd.polkit_dbus import Authority
from chdebugd.server_dbus import Server
from chdebugd.systemd_dbus import SystemdLauncher
from chdebugd.systemd_notify import notify, watchdog_usec

log = logging.getLogger(__name__)
BUS_NAME = "org.chdebugd1"
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
    """Serve until SIGTERM, or until the bus is gone (exit status 1: systemd starts us anew)."""
    log_setup.set_up(settings.journal)
    limits = load_limits(settings.config)
    (settings.runtime_dir / SOCKET_DIR).mkdir(parents=True, exist_ok=True, mode=0o700)
    bus = await _connect(settings.bus)
    watcher = BusWatcher()
    manager = Manager(
        settings.runtime_dir,
        FileOpener(settings.log_dir),
        limits,
        await _launcher(bus, settings),
        watcher,
        journal=settings.journal,
    )
    authority = Authority(bus)
    server = Server(bus, MANAGER_PATH, authority.check, limits.requests_per_caller)
    watcher.connect(server, manager)
    server.publish(MANAGER_PATH, ManagerFace(manager, authority))
    server.publish(LOG_CONTROL_PATH, LogControlFace())
    await manager.adopt_all()
    await _own_name(bus)
    watcher.open()
    stop = _watch_signals(manager)
    notify(f"READY=1\nSTATUS={len(manager.vms)} VMs")
    _ping_watchdog()
    return await _serve(bus, watcher, stop)


async def _connect(address: str | None) -> Bus:
    try:
        bus = Bus(address)
        await bus.connect()
    except Exception as error:
        where = address or "the system bus"
        raise StartupError(f"Cannot connect to {where}: {error}; is a dbus-daemon there?") from None
    return bus


async def _launcher(bus: Bus, settings: Settings) -> Launcher:
    """Units where systemd runs us on the system bus, children otherwise."""
    if settings.bus is None and "INVOCATION_ID" in os.environ:
        launcher = SystemdLauncher(bus)
        await launcher.subscribe()
        return launcher
    return ChildLauncher(settings.runtime_dir)


async def _own_name(bus: Bus) -> None:
    """Last, as daemon(7) asks: callers that the bus holds back find everything in place."""
    reply = await bus.request_name(BUS_NAME, NameFlag.DO_NOT_QUEUE)
    if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
        raise StartupError(f"{BUS_NAME} is owned by another process; stop that chdebugd first")


def _watch_signals(manager: Manager) -> asyncio.Event:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, manager)
    return stop


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


async def _serve(bus: Bus, watcher: BusWatcher, stop: asyncio.Event) -> int:
    """0 after a signal, 1 where the bus hung up. VM processes live on either way."""
    stopped = asyncio.create_task(stop.wait())
    gone = asyncio.ensure_future(bus.wait_for_disconnect())
    await asyncio.wait([stopped, gone], return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        stopped.cancel()
        log.error("The bus hung up; VMs run on, and the next chdebugd finds them")
        return 1
    notify("STOPPING=1")
    watcher.close()
    await bus.writer.flush(FLUSH_TIMEOUT)
    bus.writer.give_up()
    bus.disconnect()
    await gone
    return 0
