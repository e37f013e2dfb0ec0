"""What a host must have before it can have containers."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from container.trouble import NoContainerError

TOOLS = ("mmdebstrap", "systemd-nspawn", "unshare", "nsenter", "setpriv")
TRIAL = """
set -e
mount -t tmpfs chdebugd /mnt
mkdir /mnt/lower /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/lower
"""


@functools.cache
def check_host() -> None:
    """Raise NoContainerError, with what to do, where this host cannot have containers."""
    if os.getuid() != 0:
        raise NoContainerError("Only root can make a container; run this as root")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise NoContainerError(f"{tool} is missing; run `make deps` as root")
    namespaces = ["unshare", "--mount", "--pid", "--mount-proc", "--fork"]
    trial = subprocess.run(
        [*namespaces, "sh", "-c", TRIAL], capture_output=True, text=True, check=False
    )
    if trial.returncode != 0:
        raise NoContainerError(f"This host refuses namespaces or overlay mounts: {trial.stderr}")
