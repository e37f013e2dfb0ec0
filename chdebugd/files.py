"""Opens the files that callers name, as the daemon, and takes the descriptors they hand over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from chdebugd.control import FileRole, close_all
from chdebugd.errors import AccessDeniedError, InvalidImageError, InvalidOptionError
from chdebugd.options import LOGS, FileOption

# O_NONBLOCK: a FIFO that nobody writes must not hold us up before we see what it is.
COMMON = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
TAP_MAJOR, TAP_MINOR = 10, 200


@dataclass(frozen=True)
class OpenFile:
    """An open file for a start request. `path` is kept where we opened it ourselves."""

    role: FileRole
    fd: int
    path: Path | None = None


class FileOpener:
    """`log_dir` is where relative log files lie."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir

    def open_all(self, options: tuple[FileOption, ...], fds: list[int]) -> list[OpenFile]:
        """Open or duplicate every file; `fds` stay the caller's. All or nothing.

        Raises InvalidOptionError, InvalidImageError or AccessDeniedError.
        """
        opened: list[OpenFile] = []
        with contextlib.ExitStack() as stack:
            for option in options:
                file = self._open(option, fds)
                stack.callback(close_all, [file.fd])
                opened.append(file)
                _check_kind(file)
            stack.pop_all()
        return opened

    def _open(self, option: FileOption, fds: list[int]) -> OpenFile:
        if option.path is None:
            return OpenFile(option.role, _duplicate(option, fds))
        if option.role.role in LOGS:
            path = self._log_dir / option.path
            return OpenFile(option.role, self.open_log(path), path)
        return OpenFile(option.role, _open_image(option.role, Path(option.path)))

    def open_log(self, path: Path) -> int:
        """Open for appending; raises AccessDeniedError or InvalidOptionError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | COMMON
        try:
            return os.open(path, flags, 0o640)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise InvalidOptionError(
                    f"Cannot open log file '{path}': {error.strerror}; name another"
                ) from None
            raise AccessDeniedError(
                f"The daemon may not write '{path}': {error.strerror}; give a relative path, which "
                f"lies in {self._log_dir}, a descriptor, or widen LogsDirectory= of the unit"
            ) from None


def _open_image(role: FileRole, path: Path) -> int:
    flags = os.O_RDONLY if role.readonly else os.O_RDWR
    try:
        return os.open(path, flags | COMMON)
    except PermissionError:
        raise AccessDeniedError(
            f"The daemon may not open '{path}' for {role.role}; make it readable for user "
            "chdebugd, or hand over a descriptor"
        ) from None
    except OSError as error:
        raise InvalidImageError(
            f"Cannot open '{path}' for {role.role}: {error.strerror}; "
            "name a file that the daemon can see"
        ) from None


def _duplicate(option: FileOption, fds: list[int]) -> int:
    if not 0 <= option.fd_index < len(fds):
        raise InvalidOptionError(
            f"Option '{option.role.role}' names descriptor {option.fd_index}, and the message has "
            f"{len(fds)}"
        )
    return fcntl.fcntl(fds[option.fd_index], fcntl.F_DUPFD_CLOEXEC, 3)


def _check_kind(file: OpenFile) -> None:
    """A regular file opened for what it is to do; or a tap for a tap."""
    info, role = os.fstat(file.fd), file.role
    access = fcntl.fcntl(file.fd, fcntl.F_GETFL) & os.O_ACCMODE
    if role.role == "tap":
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(TAP_MAJOR, TAP_MINOR):
            raise InvalidOptionError("Option 'net' needs a descriptor of an open tap device")
        return
    if not stat.S_ISREG(info.st_mode):
        kind = "a directory" if stat.S_ISDIR(info.st_mode) else "not a regular file"
        raise InvalidImageError(f"'{role.name}' for {role.role} is {kind}; give a regular file")
    if role.role in LOGS:
        if access == os.O_RDONLY:
            raise InvalidOptionError(f"The descriptor for '{role.role}' is not open for writing")
        flags = fcntl.fcntl(file.fd, fcntl.F_GETFL)
        fcntl.fcntl(file.fd, fcntl.F_SETFL, flags | os.O_APPEND)
    elif access == os.O_WRONLY or (not role.readonly and access != os.O_RDWR):
        need = "reading" if role.readonly else "reading and writing"
        raise InvalidOptionError(f"The descriptor for '{role.role}' is not open for {need}")
    elif info.st_size == 0 and role.role != "disk":
        raise InvalidImageError(f"'{role.name}' for {role.role} is empty; give an image file")
