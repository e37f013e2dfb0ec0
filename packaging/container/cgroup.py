"""A control group of its own for each container: two systemds in one would end each other's units.

Where systemd runs the host, a transient scope is that group. Elsewhere we make it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from container.trouble import NoContainerError

SYSTEMD = Path("/run/systemd/system")
MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
SCOPE = ("systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--")
PREFIX = "chdebugd-container-"
EMPTIES = 5  # seconds until the kernel has taken the dead out of a group


@contextlib.contextmanager
def own_group() -> Iterator[tuple[list[str], list[Path]]]:
    """A prefix of words for the command, and the `cgroup.procs` files that it must join."""
    if SYSTEMD.is_dir():
        yield list(SCOPE), []
        return
    parents = [Path(mount) for mount in MOUNTS if Path(mount, "cgroup.procs").exists()]
    if not parents:
        raise NoContainerError("No control groups on /sys/fs/cgroup; mount cgroup2 there")
    for parent in parents:
        _sweep(parent)
    # One name everywhere: nspawn makes the group of one hierarchy in the other as well.
    name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    groups = [parent / name for parent in parents]
    try:
        for group in groups:
            _make(group)
        yield [], [group / "cgroup.procs" for group in groups]
    finally:
        for group in groups:
            _remove(group)


def _make(group: Path) -> None:
    try:
        group.mkdir()
    except OSError as error:
        raise NoContainerError(f"Cannot make control group {group}: {error.strerror}") from None


def _sweep(parent: Path) -> None:
    """Remove what containers left whose owner was killed."""
    for group in parent.glob(PREFIX + "*"):
        owner = group.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            _remove(group)


def _remove(group: Path) -> None:
    """Remove the tree, which empties as its processes die; leave what is still in use."""
    deadline = time.monotonic() + EMPTIES
    while group.exists() and time.monotonic() < deadline:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if group.exists():
            time.sleep(0.01)
