"""What can go wrong, by the names that callers see on D-Bus.

    ChdebugdError                   Failed
    ├── InvalidNameError            InvalidName
    ├── InvalidOptionError          InvalidOption
    ├── InvalidImageError           InvalidImage
    ├── NoSuchVMError               NoSuchVM
    ├── VMExistsError               VMExists
    ├── WrongStateError             WrongState
    ├── LimitExceededError          LimitExceeded
    ├── AccessDeniedError           AccessDenied
    ├── KVMUnavailableError         KVMUnavailable
    ├── NotRespondingError          NotResponding
    └── StartFailedError            StartFailed

Each message is one sentence for the caller: what is wrong, and what to do.
"""

from __future__ import annotations

from typing import ClassVar

PREFIX = "org.chdebugd1.Error."


class ChdebugdError(Exception):
    """An error with a name on D-Bus; the base of all of ours."""

    name: ClassVar[str] = "Failed"


class InvalidNameError(ChdebugdError):
    """A VM's name breaks the rules."""

    name = "InvalidName"


class InvalidOptionError(ChdebugdError):
    """An option of StartVM is unknown, of the wrong type or out of range."""

    name = "InvalidOption"


class InvalidImageError(ChdebugdError):
    """A kernel, firmware, initrd or disk cannot be used as what it was given for."""

    name = "InvalidImage"


class NoSuchVMError(ChdebugdError):
    """No VM has that name."""

    name = "NoSuchVM"


class VMExistsError(ChdebugdError):
    """A VM of that name is already there."""

    name = "VMExists"


class WrongStateError(ChdebugdError):
    """The VM's state does not allow the call."""

    name = "WrongState"


class LimitExceededError(ChdebugdError):
    """A limit of the configuration or of the host is reached."""

    name = "LimitExceeded"


class AccessDeniedError(ChdebugdError):
    """The caller, or the daemon on its behalf, may not do that."""

    name = "AccessDenied"


class KVMUnavailableError(ChdebugdError):
    """/dev/kvm is missing, may not be opened, or speaks another API."""

    name = "KVMUnavailable"


class NotRespondingError(ChdebugdError):
    """The VM process lives and does not answer: it is stopped, or its host is overloaded."""

    name = "NotResponding"


class StartFailedError(ChdebugdError):
    """The VM process did not come up."""

    name = "StartFailed"


def error_by_name(name: str, message: str) -> ChdebugdError:
    """The error that a VM process named, made anew on this side."""
    for kind in ChdebugdError.__subclasses__():
        if kind.name == name:
            return kind(message)
    return ChdebugdError(message)
