"""Gives a VM that runs its log or text file anew, once log rotation has moved the old one away."""

from __future__ import annotations

import logging
from pathlib import Path

from chdebugd.control import close_all
from chdebugd.errors import ChdebugdError
from chdebugd.files import FileOpener
from chdebugd.vm import VM

log = logging.getLogger(__name__)


async def reopen_log(vm: VM, role: str, path: Path, opener: FileOpener) -> None:
    """Open `path` and hand it to the VM's process; where that fails, say so and keep the old."""
    try:
        fd = opener.open_log(path)
    except ChdebugdError as error:
        log.warning("VM '%s' keeps its old %s: %s", vm.name, role, error)
        return
    try:
        if role == "log-file":
            await vm.call("reopen-log", [fd])
        else:
            await vm.call("reopen-text", [fd], port=role)
    except ChdebugdError as error:
        log.warning("VM '%s' keeps its old %s: %s", vm.name, role, error)
        close_all([fd])
    else:
        vm.change_log(role, fd)
