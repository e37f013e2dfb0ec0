"""The daemon's own messages: to the journal under systemd, to standard error otherwise."""

from __future__ import annotations

import logging
import os
import sys

from chdebugd.trace.journal import DEBUG, ERR, INFO, SOCKET, WARNING, Journal, entry

ALERT_LEVELS = {"emerg": 50, "alert": 50, "crit": 50, "err": 40, "warning": 30}
SYSLOG_LEVELS = ALERT_LEVELS | {"notice": 20, "info": 20, "debug": 10}
NAMES = {50: "crit", 40: "err", 30: "warning", 20: "info", 10: "debug"}


class JournalHandler(logging.Handler):
    """Entries that never block; where journald does not read, they go to standard error."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        message = self.format(record)
        if not self._journal.send(entry(message, _priority(record.levelno), {})):
            print(message, file=sys.stderr)


def _priority(level: int) -> int:
    if level >= logging.ERROR:
        return ERR
    if level >= logging.WARNING:
        return WARNING
    return INFO if level >= logging.INFO else DEBUG


def set_up(socket: str) -> None:
    """Log at info; `socket` is journald's, empty for the usual one."""
    handler: logging.Handler = logging.StreamHandler()
    if "JOURNAL_STREAM" in os.environ:
        handler = JournalHandler(Journal(socket or SOCKET))
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s")


def target() -> str:
    """`journal` or `console`, as LogControl1 names them."""
    is_journal = isinstance(logging.getLogger().handlers[0], JournalHandler)
    return "journal" if is_journal else "console"


def level() -> str:
    """The level as syslog names it."""
    return NAMES.get(logging.getLogger().level, "info")


def set_level(name: str) -> None:
    """Set the level by its syslog name; raises ValueError."""
    if name not in SYSLOG_LEVELS:
        raise ValueError(f"'{name}' is not a log level; use one of {', '.join(SYSLOG_LEVELS)}")
    logging.getLogger().setLevel(SYSLOG_LEVELS[name])
