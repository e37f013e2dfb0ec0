"""Which machine a verb is about: this one, another one by ssh, or a container."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chdebugd.ctl.errors import CtlError

SYSTEM_BUS = "run/dbus/system_bus_socket"
BRIDGE = "systemd-stdio-bridge"
END_TIMEOUT = 5.0  # seconds that ssh has to end after its input did
RELAY = "bus"


@dataclass(frozen=True)
class Place:
    """Where the bus and the journal are; at most one of `host` and `container` is set."""

    bus: str | None = None
    """A D-Bus address; None is the system bus."""
    host: str | None = None
    """[USER@]HOST for ssh."""
    container: str | None = None
    """The name of a container that systemd-machined knows."""
    journal_dir: str | None = None
    """Read these journal files instead of the running journald's."""

    @property
    def passes_descriptors(self) -> bool:
        """Whether an open file can go along with a call."""
        return self.host is None

    @property
    def label(self) -> str:
        """For messages: ` on host` or nothing."""
        where = self.host or self.container
        return f" on {where}" if where else ""

    def command(self, *words: str) -> list[str]:
        """A command line that runs `words` on that machine."""
        if self.host is None:
            return list(words)
        return ["ssh", "-xT", "--", self.host, shlex.join(words)]

    def journalctl(self, *words: str) -> list[str]:
        """A command line of journalctl for that machine's journal."""
        about = []
        if self.journal_dir:
            about = ["--directory", self.journal_dir]
        elif self.container:
            about = ["--machine", self.container]
        return self.command("journalctl", *about, *words)

    def container_address(self) -> str:
        """The address of the container's system bus; raises CtlError."""
        assert self.container is not None
        show = ["machinectl", "show", "--property=Leader", "--value", self.container]
        leader = _run(show, f"find container '{self.container}'").strip()
        return f"unix:path=/proc/{leader}/root/{SYSTEM_BUS}"


def _run(command: list[str], purpose: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CtlError(
            f"Cannot {purpose}: {command[0]}: {error.strerror}; install systemd-container"
        ) from None
    if done.returncode:
        raise CtlError(f"Cannot {purpose}: {done.stderr.strip()}; see machinectl list")
    return done.stdout


class Relay:
    """A socket whose other end is the standard input and output of a command.

    dbus-next connects to addresses only: it connects to `address`, then `start` hands the other
    end to the command.
    """

    def __init__(self, directory: str, command: list[str]) -> None:
        self._path = Path(directory) / RELAY
        self._command = command
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix:path={self._path}"

    def start(self) -> None:
        """Start the command for the one connection that is there; raises CtlError."""
        connection, _ = self._listener.accept()
        with connection:
            try:
                self._process = subprocess.Popen(
                    self._command, stdin=connection.fileno(), stdout=connection.fileno()
                )
            except OSError as error:
                name = self._command[0]
                raise CtlError(f"Cannot run {name}: {error.strerror}; install it") from None

    def close(self) -> None:
        """End it; the command ends when its input does."""
        self._listener.close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def relay(command: list[str]) -> Iterator[Relay]:
    """A relay in a directory of its own, which only this user may enter."""
    with tempfile.TemporaryDirectory(prefix="chdebugctl-") as directory:
        end = Relay(directory, command)
        try:
            yield end
        finally:
            end.close()
