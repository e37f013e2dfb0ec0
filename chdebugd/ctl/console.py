"""`console`: this terminal and a guest's, until ^] comes three times."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator

from chdebugd.ctl.arguments import Verbs, place_of
from chdebugd.ctl.bus_client import connected
from chdebugd.ctl.errors import CtlError

ESCAPE = 0x1D  # ^]
ESCAPES = 3  # so many, within a second, detach (as machinectl has it)
ESCAPE_WITHIN = 1.0  # seconds
CHUNK = 4096


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("console", "attach this terminal to a VM's; ^] three times detaches", _run)
    parser.add_argument("vm", metavar="VM")
    parser.add_argument(
        "port", metavar="PORT", nargs="?", help="serial, debug-console or firmware-debug"
    )


def _run(given: argparse.Namespace) -> int:
    return asyncio.run(_attach_to(given))


async def _attach_to(given: argparse.Namespace) -> int:
    place = place_of(given)
    if place.host or place.container:
        raise CtlError(
            f"A terminal of{place.label.removeprefix(' on')} cannot be opened from here; run "
            "chdebugctl console on that machine (ssh -t)"
        )
    async with connected(place) as client:
        properties = await client.vm_properties(await client.find(given.vm))
        path = _terminal(given.vm, given.port, properties["Terminals"])
        print(f"Attached to {path}; ^] three times within a second detaches", file=sys.stderr)
        await attach(path)
    print("\nDetached", file=sys.stderr)
    return 0


def _terminal(vm: str, port: str | None, terminals: dict[str, str]) -> str:
    if not terminals:
        raise CtlError(f"VM '{vm}' has no terminal; boot it with --serial pty")
    if port is None:
        port = "serial" if "serial" in terminals else next(iter(terminals))
    if port not in terminals:
        raise CtlError(f"VM '{vm}' has no terminal '{port}'; it has {', '.join(terminals)}")
    return terminals[port]


class EscapeWatch:
    """Finds ^] ^] ^] in what is typed."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def takes(self, data: bytes, now: float) -> bool:
        """Whether the escape is complete with these bytes, typed at `now` seconds."""
        for byte in data:
            self._times = [*self._times, now] if byte == ESCAPE else []
            self._times = [at for at in self._times if now - at <= ESCAPE_WITHIN]
            if len(self._times) >= ESCAPES:
                return True
        return False


async def attach(path: str) -> None:
    """Copy both ways until the escape, or the end of either side; raises CtlError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CtlError(
            f"Cannot open terminal {path}: {error.strerror}; ask as root, or see whether the VM "
            "still runs"
        ) from None
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    escape = EscapeWatch()

    def from_guest() -> None:
        data = _read(fd)
        if not data:
            done.set()
        os.write(sys.stdout.fileno(), data)

    def from_user() -> None:
        data = _read(sys.stdin.fileno())
        if not data or escape.takes(data, time.monotonic()):
            done.set()
        with contextlib.suppress(OSError):  # a guest that reads nothing loses what is typed
            os.write(fd, data)

    with _raw(sys.stdin.fileno()):
        loop.add_reader(fd, from_guest)
        loop.add_reader(sys.stdin.fileno(), from_user)
        try:
            await done.wait()
        finally:
            loop.remove_reader(fd)
            loop.remove_reader(sys.stdin.fileno())
            os.close(fd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return b""
    except OSError:  # the other side hung up
        return b""


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """A terminal that hands over each key; other files are left as they are."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)
