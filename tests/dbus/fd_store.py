"""systemd's store of descriptors, for a daemon that no systemd has started."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.dbus.conftest import Daemon


class FdStore:
    """systemd's side of sd_notify(3): keeps the descriptors that a service stores."""

    def __init__(self, path: Path) -> None:
        self.fds: dict[str, int] = {}
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def look(self) -> dict[str, int]:
        """What is kept by now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
                told = dict(line.split("=", 1) for line in data.decode().splitlines())
                if "FDSTORE" in told:
                    self.fds[told["FDNAME"]] = fds[0]
                elif "FDSTOREREMOVE" in told and told["FDNAME"] in self.fds:
                    os.close(self.fds.pop(told["FDNAME"]))
        return self.fds

    def hand_back(self, daemon: Daemon) -> None:
        """To the daemon that starts next (sd_listen_fds(3))."""
        kept = self.look()
        opened = "".join(
            f"exec {3 + at}<>/proc/self/fd/{fd}; " for at, fd in enumerate(kept.values())
        )
        script = f'{opened} export LISTEN_PID=$$; exec "$@"'
        daemon.environment |= {"LISTEN_FDS": str(len(kept)), "LISTEN_FDNAMES": ":".join(kept)}
        daemon.wrapper, daemon.pass_fds = ["sh", "-c", script, "sh"], list(kept.values())

    def close(self) -> None:
        self._socket.close()
        for fd in self.fds.values():
            os.close(fd)
