"""What the daemon tells systemd (sd_notify(3)), through python-systemd."""

from __future__ import annotations

import os

from systemd import daemon


def notify(state: str) -> None:
    """Send `state`; nothing where no service manager listens."""
    daemon.notify(state)


def watchdog_usec() -> int:
    """How often systemd wants a sign of life, in microseconds; 0 is never (sd_watchdog_enabled)."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    return int(os.environ.get("WATCHDOG_USEC", "0"))
