"""What the daemon tells systemd (sd_notify(3)), through python-systemd."""

from __future__ import annotations

import os

from systemd import daemon


def notify(state: str) -> None:
    """Send `state`; nothing where no service manager listens."""
    daemon.notify(state)


def store_fd(name: str, fd: int) -> None:
    """Let systemd keep a duplicate of `fd` for the next process of this unit (sd_notify(3))."""
    forget_fd(name)
    daemon.notify(f"FDSTORE=1\nFDNAME={name}", False, 0, [fd])


def forget_fd(name: str) -> None:
    """Let systemd close what it keeps under `name`; nothing where it keeps nothing."""
    daemon.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def take_stored_fds() -> dict[str, int]:
    """What an earlier process of this unit stored, by name; the caller's from now on. Once."""
    return {name: fd for fd, name in daemon.listen_fds_with_names(True).items()}


def watchdog_usec() -> int:
    """How often systemd wants a sign of life, in microseconds; 0 is never (sd_watchdog_enabled)."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    return int(os.environ.get("WATCHDOG_USEC", "0"))
