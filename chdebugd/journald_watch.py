"""Notices that journald has died, from a hold on its process: that costs nothing meanwhile.

Its sockets are systemd's, so no sender notices, and what was sent waits for the next journald.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

LOOK = 0.05  # seconds until the first question whether there is a journald again; then doubled
LAST_LOOK = 60.0  # seconds between two questions where there is none for long


class JournaldWatch:
    """Calls back at each death of journald, until it is closed."""

    def __init__(self, main_pid: Callable[[], Awaitable[int]], died: Callable[[], None]) -> None:
        """`main_pid` tells journald's process id, 0 where there is none now."""
        self._main_pid = main_pid
        self._died = died
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            pidfd = await self._hold()
            try:
                await _wait_dead(pidfd)
            finally:
                os.close(pidfd)
            self._died()

    async def _hold(self) -> int:
        """A descriptor of the journald that is there, or as soon as there is one."""
        look = LOOK
        while True:
            pid = await self._main_pid()
            with contextlib.suppress(OSError):  # it is gone by now, or no file may be opened
                if pid:
                    return os.pidfd_open(pid)
            await asyncio.sleep(look)
            look = min(2 * look, LAST_LOOK)

    def close(self) -> None:
        """Call back no more."""
        self._task.cancel()


async def _wait_dead(pidfd: int) -> None:
    loop, dead = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(pidfd)
