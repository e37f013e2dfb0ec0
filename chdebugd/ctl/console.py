"""`console`: this terminal and a guest's, until ^] comes three times."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import stat
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
        await attach(
            open_terminal(path), f"Attached to {path}; ^] three times within a second detaches"
        )
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


def open_terminal(path: str) -> int:
    """A descriptor of a pty, or of a connection to a socket; raises CtlError."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as terminal:
                terminal.connect(path)
                terminal.setblocking(False)
                return terminal.detach()
        return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CtlError(
            f"Cannot open terminal {path}: {error.strerror}; ask as root, or see whether the VM "
            "still runs"
        ) from None


async def attach(fd: int, greeting: str = "") -> bool:
    """Copy both ways until the escape, or the end of the terminal; closes the descriptor.

    True where the user ended it. What comes from a file or a pipe may end before.
    """
    with _raw(sys.stdin.fileno()):
        copy = _Copy(fd)
        if greeting:
            print(greeting, end="\r\n", file=sys.stderr, flush=True)
        try:
            return await copy.ended
        finally:
            copy.close()


class _Copy:
    """Copies between this terminal and a guest's; `ended` becomes True where the user ended it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._escape = EscapeWatch()
        self.ended: asyncio.Future[bool] = self._loop.create_future()
        self._loop.add_reader(fd, self._from_guest)
        with contextlib.suppress(PermissionError):  # epoll refuses plain files and /dev/null
            self._loop.add_reader(sys.stdin.fileno(), self._from_user)

    def _from_guest(self) -> None:
        data = _read(self._fd)
        if data is None:
            return
        if not data:
            self._end(by_user=False)
        os.write(sys.stdout.fileno(), data)

    def _from_user(self) -> None:
        data = _read(sys.stdin.fileno())
        if data is None:
            return
        if not data:
            self._loop.remove_reader(sys.stdin.fileno())
        if self._escape.takes(data, time.monotonic()) or (not data and sys.stdin.isatty()):
            self._end(by_user=True)
        with contextlib.suppress(OSError):  # a guest that reads nothing loses what is typed
            os.write(self._fd, data)

    def _end(self, *, by_user: bool) -> None:
        if not self.ended.done():
            self.ended.set_result(by_user)

    def close(self) -> None:
        """Leave both terminals alone."""
        self._loop.remove_reader(self._fd)
        self._loop.remove_reader(sys.stdin.fileno())
        os.close(self._fd)


def _read(fd: int) -> bytes | None:
    """What there is: nothing at the end, None where there is nothing yet."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:  # the other side hung up
        return b""


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """A terminal that hands over each key; other files are left as they are."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed already counts
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)
