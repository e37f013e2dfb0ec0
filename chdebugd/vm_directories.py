"""A directory for each VM: all that its process sees of the runtime directory.

All VM processes have one user, so what is in another VM's directory would be open to a process that
its guest has taken over. For the same reason what is in there is not trusted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from chdebugd.control import EXIT_COST, LAST_WORDS, SOCKET, VMS_DIR
from chdebugd.errors import StartFailedError

SIZE_LIMIT = 1024 * 1024  # bytes that are read of a file


class VmDirectories:
    """RUNTIME_DIR/vm, and a directory in it for each VM that has, or may have, a process."""

    def __init__(self, runtime_dir: Path) -> None:
        self.path = runtime_dir / VMS_DIR
        self._exit_cost = runtime_dir / EXIT_COST

    def socket_of(self, name: str) -> Path:
        """Where the process of that VM listens."""
        return self.path / name / SOCKET

    def names(self) -> set[str]:
        """The VMs that have a socket, whether or not somebody listens there."""
        return {path.parent.name for path in self.path.glob(f"*/{SOCKET}")}

    def make(self, name: str) -> None:
        """For a process that is to start; raises StartFailedError."""
        directory = self.path / name
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartFailedError(f"Cannot make {directory}: {error.strerror}") from None
        with contextlib.suppress(OSError):
            _copy(self._exit_cost, directory / EXIT_COST)

    def keep_exit_cost(self, name: str) -> None:
        """What a process measured that has not met its guest; the first one counts."""
        if not self._exit_cost.exists():
            with contextlib.suppress(OSError):
                _copy(self.path / name / EXIT_COST, self._exit_cost)

    def take_last_words(self, name: str) -> bytes | None:
        """What a process said to nobody when it ended; None where it could not. Once."""
        path = self.path / name / LAST_WORDS
        try:
            words = _read(path)
            path.unlink()
        except OSError:
            return None
        return words

    def remove_socket(self, name: str) -> bool:
        """Its process is dead; returns whether there is one: who ends by itself leaves none."""
        try:
            self.socket_of(name).unlink()
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Forget the VM; where its process still has a socket, it goes with the process."""
        with contextlib.suppress(OSError):
            (self.path / name / LAST_WORDS).unlink()
        if not self.socket_of(name).exists():
            shutil.rmtree(self.path / name, ignore_errors=True)


def _read(path: Path) -> bytes:
    """A regular file's first SIZE_LIMIT bytes; raises OSError where it is anything else."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
        return os.pread(fd, SIZE_LIMIT, 0)
    finally:
        os.close(fd)


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all, and into no file that is there."""
    fresh = target.with_name(f"{target.name}.new")
    fresh.unlink(missing_ok=True)
    data = _read(source)
    with fresh.open("xb") as file:
        file.write(data)
    fresh.rename(target)
