"""The event loop of a VM process: descriptors and deadlines, nothing else.

asyncio would cost each VM process tens of milliseconds at its start and megabytes for its life.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Protocol

Callback = Callable[[], None]


class HasFileno(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


class VmLoop:
    """Calls back on one thread. Deadlines have names: a new one takes the old one's place."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._deadlines: dict[str, tuple[float, Callback]] = {}
        self._is_running = True

    def add_reader(self, source: int | HasFileno, callback: Callback) -> None:
        """Call back whenever `source` can be read."""
        self._selector.register(source, selectors.EVENT_READ, callback)

    def add_writer(self, source: int | HasFileno, callback: Callback) -> None:
        """Call back whenever `source` can be written."""
        self._selector.register(source, selectors.EVENT_WRITE, callback)

    def remove(self, source: int | HasFileno) -> None:
        """Call back no more; nothing where it was not added."""
        if source in self._selector.get_map():
            self._selector.unregister(source)

    def call_later(self, name: str, seconds: float, callback: Callback) -> None:
        """Call back once, after `seconds`."""
        self._deadlines[name] = (time.monotonic() + seconds, callback)

    def cancel(self, name: str) -> None:
        """Forget the deadline `name`; nothing where there is none."""
        self._deadlines.pop(name, None)

    def run(self) -> None:
        """Until stop is called."""
        while self._is_running:
            for key, _ in self._selector.select(self._timeout()):
                if self._selector.get_map().get(key.fd) is key:  # still so after the others
                    key.data()
            now = time.monotonic()
            for name in list(self._deadlines):
                if self._is_due(name, now):
                    self._deadlines.pop(name)[1]()

    def _is_due(self, name: str, now: float) -> bool:
        """Also asked behind callbacks, which may cancel each other and put each other off."""
        return name in self._deadlines and self._deadlines[name][0] <= now

    def _timeout(self) -> float | None:
        if not self._deadlines:
            return None
        return max(min(when for when, _ in self._deadlines.values()) - time.monotonic(), 0)

    def stop(self) -> None:
        """Let run return after this round."""
        self._is_running = False
