"""Starts VM processes as children of the daemon: development, a session bus, no systemd."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from chdebugd.errors import StartFailedError


class Launcher(Protocol):
    """Starts and ends the process of a VM by the VM's name."""

    async def start(self, name: str) -> None:
        """Start it; done once its socket is there. Raises StartFailedError."""

    async def kill(self, name: str) -> None:
        """End it for good, however it is; nothing where there is none."""


class ChildLauncher:
    """Children in their own session, so that they outlive the daemon."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self, name: str) -> None:
        """Start a child and wait until it closes its end of a pipe."""
        self._reap()
        ready, ready_fd = os.pipe()
        command = [sys.executable, "-m", "chdebugd.vm_process", name]
        command += ["--runtime-dir", str(self._runtime_dir), "--ready-fd", str(ready_fd)]
        try:
            self._children[name] = subprocess.Popen(  # noqa: ASYNC220 - forks, waits for nothing
                command, pass_fds=[ready_fd], start_new_session=True, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            raise StartFailedError(f"Cannot start a VM process: {error}; end some others") from None
        finally:
            os.close(ready_fd)
        await _wait_closed(ready)
        if not (self._runtime_dir / "vm" / f"{name}.sock").exists():
            raise StartFailedError(f"The process of VM '{name}' ended at once; see its messages")

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        child = self._children.pop(name, None)
        if child:
            child.kill()
            child.wait()

    def _reap(self) -> None:
        self._children = {k: v for k, v in self._children.items() if v.poll() is None}


async def _wait_closed(fd: int) -> None:
    """Until the other end of the pipe is closed."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    loop.add_reader(fd, closed.set)
    try:
        await closed.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
