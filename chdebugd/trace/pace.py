"""When a reader of the ring takes what a guest writes: single marks at once, a burst behind it.

A reader that works while the guest writes takes its CPU time and its caches. The ring has room for
a burst; so a reader that sees one lets it pass, unless the ring fills or a second goes by.
"""

from __future__ import annotations

from chdebugd.trace.ring import CAPACITY, KEPT

BURST = 5_000  # marks a second; a guest that writes faster is in a burst
LOOK = 0.002  # seconds between two looks at a burst
HOLD_LIMIT = 1.0  # seconds; then the reader takes what is there
FULL = (CAPACITY - KEPT) * 7 // 8  # records; at this the reader begins, or the guest must wait


class Pace:
    """What one reader knows of the guest's speed. Times are seconds of one clock."""

    def __init__(self) -> None:
        self.is_burst = False
        self._seen = 0
        self._looked = 0.0
        self._held_since = 0.0

    def holds(self, now: float, head: int, position: int) -> bool:
        """Look at the ring's head: whether the reader at `position` shall wait and look again."""
        burst = head - self._seen > BURST * max(now - self._looked, LOOK)
        if burst and not self.is_burst:
            self._held_since = now
        self.is_burst, self._seen, self._looked = burst, head, now
        if not burst or head - position >= FULL:
            return False
        if now - self._held_since < HOLD_LIMIT:
            return True
        self._held_since = now
        return False
