"""How chdebugctl ends, and the one error that its verbs raise."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses; chdebugctl(1) lists them."""

    OK = 0
    FAILED = 1
    """A request was refused, or something needed is not there."""
    USAGE = 2
    """The command line is wrong; nothing was done."""
    GUEST_FAILED = 3
    """The guest failed, or ended before the awaited code."""
    STUCK = 4
    """The deadline passed."""
    EXCEEDED = 5
    """A budget or the baseline is exceeded significantly."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


class CtlError(Exception):
    """One sentence for the user: what is wrong, and what to do."""

    def __init__(self, sentence: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(sentence)
        self.status = status


class UsageError(CtlError):
    """An argument cannot be used."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, ExitStatus.USAGE)
