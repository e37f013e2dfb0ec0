"""What the two sinks that last have in common: each drains the ring from its own position.

A sink moves its position only behind what it has handed over, one event at a time for the
journal: should the process die, whoever drains the ring after it goes on from there.
"""

from __future__ import annotations

from enum import Enum, auto


class Progress(Enum):
    """How far a drain came."""

    IDLE = auto()
    """There was nothing."""
    DRAINED = auto()
    """All there was is handed over."""
    MORE = auto()
    """A whole batch is handed over, more may wait."""
    BLOCKED = auto()
    """The other side takes no more now."""
