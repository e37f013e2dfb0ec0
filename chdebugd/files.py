"""Opens the files that callers name, as the daemon, and takes the descriptors they hand over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from chdebugd.control import FileRole
from chdebugd.errors import (
    AccessDeniedError,
    InvalidImageError,
    InvalidOptionError,
    LimitExceededError,
    WrongStateError,
)
from chdebugd.given import FileOption
from chdebugd.options import LOGS

# O_NONBLOCK: a FIFO that nobody writes must not hold us up before we see what it is.
COMMON = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
TAP_MAJOR, TAP_MINOR = 10, 200
SHOWN = 200  # characters of a path in a sentence


@dataclass(frozen=True)
class OpenFile:
    """An open file for a start request. `path` is kept where a log file was opened by it."""

    role: FileRole
    fd: int
    path: Path | None = None
    is_new: bool = False
    """Whether it was not there before."""

    def discard(self) -> None:
        """Close it, and remove what was made for a start that failed."""
        if self.is_new and self.path is not None and not os.fstat(self.fd).st_size:
            self.path.unlink(missing_ok=True)
        os.close(self.fd)


class FileOpener:
    """`log_dir` is where relative log files lie."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir

    def open_all(self, options: tuple[FileOption, ...], fds: list[int]) -> list[OpenFile]:
        """Open or duplicate every file; `fds` stay the caller's. All or nothing.

        Raises InvalidOptionError, InvalidImageError, AccessDeniedError or LimitExceededError.
        """
        opened: list[OpenFile] = []
        with contextlib.ExitStack() as stack:
            for option in options:
                file = self._open(option, fds)
                stack.callback(file.discard)
                opened.append(file)
                _check_kind(file)
            stack.pop_all()
        return opened

    def open_again(self, options: tuple[FileOption, ...], old: list[OpenFile]) -> list[OpenFile]:
        """Open the paths anew and duplicate the descriptors that are there; `old` stays.

        Raises as open_all, and WrongStateError where a descriptor is not there any more.
        """
        handed_over = [file.fd for file in old if file.path is None]
        has = {(file.role.role, file.role.id): file.fd for file in old}
        fds: list[int] = []
        again: list[FileOption] = []
        for option in options:
            if option.path is None:
                key = option.role.role, option.role.id
                if key not in has or has[key] not in handed_over:
                    raise WrongStateError(
                        f"The descriptor for '{option.role.role}' was lost when the daemon "
                        "restarted; remove the VM and start it with a new one"
                    )
                option = replace(option, fd_index=len(fds))
                fds.append(has[key])
            again.append(option)
        return self.open_all(tuple(again), fds)

    def _open(self, option: FileOption, fds: list[int]) -> OpenFile:
        if option.path is None:
            return OpenFile(option.role, _duplicate(option, fds))
        if option.role.role in LOGS:
            path = self._log_dir / option.path
            is_new = not path.exists()
            return OpenFile(option.role, self.open_log(path), path, is_new)
        return OpenFile(option.role, _open_image(option.role, Path(option.path)))

    def open_log(self, path: Path) -> int:
        """Open for appending; raises AccessDeniedError, InvalidOptionError or InvalidImageError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | COMMON
        try:
            with contextlib.suppress(FileNotFoundError):
                _refuse_special("a log file", path, os.O_NOFOLLOW)
            return os.open(path, flags | os.O_CREAT, 0o640)
        except OSError as error:
            _raise_if_short_of(error)
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise InvalidOptionError(
                    f"Cannot open log file '{_short(path)}': {error.strerror}; name another"
                ) from None
            raise AccessDeniedError(
                f"The daemon may not write '{_short(path)}': {error.strerror}; give a relative "
                f"path, which lies in {self._log_dir}, a descriptor, or widen LogsDirectory= of "
                "the unit"
            ) from None


def _open_image(role: FileRole, path: Path) -> int:
    flags = os.O_RDONLY if role.readonly else os.O_RDWR
    try:
        _refuse_special(role.role, path)
        return os.open(path, flags | COMMON)
    except PermissionError:
        need, way = ("read", "") if role.readonly else ("read and write", ", set 'readonly'")
        raise AccessDeniedError(
            f"The daemon may not {need} '{_short(path)}' for {role.role}; let user chdebugd do "
            f"it{way}, or hand over a descriptor"
        ) from None
    except OSError as error:
        _raise_if_short_of(error)
        if error.errno == errno.EROFS:
            raise AccessDeniedError(
                f"The daemon may only read '{_short(path)}' for {role.role}; put it under "
                "/var/lib/chdebugd, hand over a descriptor, or set 'readonly'"
            ) from None
        raise InvalidImageError(
            f"Cannot open '{_short(path)}' for {role.role}: {error.strerror}; "
            "name a file that the daemon can see"
        ) from None


def _refuse_special(purpose: str, path: Path, flags: int = 0) -> None:
    """Look before opening: to open some devices, a watchdog or a tape, is to use them already."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    try:
        _check_regular(purpose, str(path), os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _check_regular(purpose: str, name: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise InvalidImageError(f"'{_short(name)}' for {purpose} is {kind}; give a regular file")


def _raise_if_short_of(error: OSError) -> None:
    """What the host lacks is not the caller's mistake."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise LimitExceededError(
            f"The daemon cannot open another file: {error.strerror}; remove some VMs"
        ) from None


def _short(path: Path | str) -> str:
    return str(path)[:SHOWN]


def _duplicate(option: FileOption, fds: list[int]) -> int:
    if not 0 <= option.fd_index < len(fds):
        raise InvalidOptionError(
            f"Option '{option.role.role}' names descriptor {option.fd_index}, and the message has "
            f"{len(fds)}"
        )
    try:
        return fcntl.fcntl(fds[option.fd_index], fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        _raise_if_short_of(error)
        raise


def _check_kind(file: OpenFile) -> None:
    """A regular file opened for what it is to do; or a tap for a tap."""
    info, role = os.fstat(file.fd), file.role
    access = fcntl.fcntl(file.fd, fcntl.F_GETFL) & os.O_ACCMODE
    if role.role == "tap":
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(TAP_MAJOR, TAP_MINOR):
            raise InvalidOptionError("Option 'net' needs a descriptor of an open tap device")
        return
    _check_regular(role.role, role.name, info.st_mode)
    if role.role in LOGS:
        if access == os.O_RDONLY:
            raise InvalidOptionError(f"The descriptor for '{role.role}' is not open for writing")
        flags = fcntl.fcntl(file.fd, fcntl.F_GETFL)
        fcntl.fcntl(file.fd, fcntl.F_SETFL, flags | os.O_APPEND)
    elif access == os.O_WRONLY or (not role.readonly and access != os.O_RDWR):
        need = "reading" if role.readonly else "reading and writing"
        raise InvalidOptionError(f"The descriptor for '{role.role}' is not open for {need}")
    elif info.st_size == 0 and role.role != "disk":
        raise InvalidImageError(f"'{_short(role.name)}' for {role.role} is empty; give an image")
