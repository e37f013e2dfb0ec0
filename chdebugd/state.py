"""The life of a VM. The enum's value is the string on D-Bus and in the journal.

    created → starting → running ⇄ paused
                 ↑ reset    ↓         ↓
                 └──────── (any) → stopping → stopped
                                       └────→ failed

From stopped and failed, Start begins again at starting.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a VM is in its life."""

    CREATED = "created"
    """Known, its process not started yet."""
    STARTING = "starting"
    """The machine is being built."""
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    """The power button was pressed, or the machine is being taken down."""
    STOPPED = "stopped"
    FAILED = "failed"


NEXT: dict[State, frozenset[State]] = {
    State.CREATED: frozenset({State.STARTING, State.FAILED}),
    State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED}),
    State.RUNNING: frozenset(
        {State.PAUSED, State.STARTING, State.STOPPING, State.STOPPED, State.FAILED}
    ),
    State.PAUSED: frozenset(
        {State.RUNNING, State.STARTING, State.STOPPING, State.STOPPED, State.FAILED}
    ),
    State.STOPPING: frozenset({State.STARTING, State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset({State.STARTING}),
    State.FAILED: frozenset({State.STARTING}),
}

ENDED = frozenset({State.STOPPED, State.FAILED})


def check_step(old: State, new: State) -> State:
    """The new state; AssertionError where the table has no such step."""
    if new not in NEXT[old]:
        raise AssertionError(f"A VM cannot go from {old} to {new}")
    return new
