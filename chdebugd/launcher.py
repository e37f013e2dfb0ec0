"""Starts VM processes as children of the daemon: development, a session bus, no systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

from chdebugd.control import SOCKET, VMS_DIR
from chdebugd.errors import LimitExceededError, StartFailedError

READY_TIMEOUT = 60.0  # seconds for a VM process to listen


class End(NamedTuple):
    """The signal that ended a process, as who started it knows."""

    signal: int
    is_out_of_memory: bool = False


class Launcher(Protocol):
    """Starts and ends the process of a VM by the VM's name."""

    async def start(self, name: str) -> None:
        """Start it; done once its socket is there. Raises StartFailedError."""

    async def kill(self, name: str) -> None:
        """End it for good, however it is; nothing where there is none."""

    def ended(self, name: str) -> None:
        """The process is known to be dead."""

    async def how_ended(self, name: str) -> End | None:
        """How the process ended that is known to be dead; None where by no signal, or unknown."""


class ChildLauncher:
    """Children in their own session, so that they outlive the daemon."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ends: dict[str, End] = {}

    async def start(self, name: str) -> None:
        """Start a child and wait until it closes its end of a pipe."""
        self._ends.pop(name, None)
        try:
            ready, ready_fd = os.pipe()
        except OSError as error:
            raise LimitExceededError(
                f"Cannot start a VM process: {error}; end some others"
            ) from None
        command = [sys.executable, "-m", "chdebugd.vm_entry", name]
        command += ["--runtime-dir", str(self._runtime_dir), "--ready-fd", str(ready_fd)]
        try:
            self._children[name] = subprocess.Popen(  # noqa: ASYNC220 - forks, waits for nothing
                command, pass_fds=[ready_fd], start_new_session=True, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            os.close(ready)
            raise LimitExceededError(
                f"Cannot start a VM process: {error}; end some others"
            ) from None
        finally:
            os.close(ready_fd)
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                await _wait_readable(ready)
        except TimeoutError:
            await self.kill(name)
            raise StartFailedError(
                f"The process of VM '{name}' was not ready in {READY_TIMEOUT:.0f} s; try again"
            ) from None
        if not (self._runtime_dir / VMS_DIR / name / SOCKET).exists():
            raise StartFailedError(f"The process of VM '{name}' ended at once; see its messages")

    async def kill(self, name: str) -> None:
        """SIGKILL to a child of ours."""
        child = self._children.pop(name, None)
        if child:
            child.kill()
            with contextlib.suppress(
                OSError
            ):  # no file may be opened: the wait is short all the same
                await _wait_readable(os.pidfd_open(child.pid))
            child.wait()

    def ended(self, name: str) -> None:
        """Reap it, where it is a child of ours."""
        child = self._children.get(name)
        if child and child.poll() is not None:
            del self._children[name]
            if child.returncode < 0:
                self._ends[name] = End(signal=-child.returncode)

    async def how_ended(self, name: str) -> End | None:
        """Which signal ended it; None where none did, and for a child of an earlier daemon."""
        return self._ends.pop(name, None)


async def _wait_readable(fd: int) -> None:
    """Until a pipe's other end is closed, or the process of a pidfd is dead; closes `fd`."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
