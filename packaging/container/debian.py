"""A minimal Debian root file system that can install the package without a network."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from container.host import check_host
from container.trouble import ContainerError

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache" / "container"

# What a host has before chdebugd comes: an init, and two guests to boot.
PACKAGES = ("systemd", "systemd-sysv", "u-boot-qemu", "seabios")
# What tests install beside it: apt has their archives too.
AT_HAND = ("autopkgtest", "dpkg-dev", "logrotate", "systemd-container", "systemd-journal-remote")
# udev makes this group on a real host, and is of no use in a container.
HOOKS = ("groupadd --root $1 --system kvm",)


def debian_root(suite: str, package: Path) -> Path:
    """A minimal `suite`; its apt holds what `package` needs and recommends, and AT_HAND.

    Made once for what goes into it, some 15 s. Raises ContainerError.
    """
    check_host()
    needs = (*_dependencies(package), *AT_HAND)
    key = hashlib.sha256(repr((suite, PACKAGES, HOOKS, needs)).encode()).hexdigest()[:12]
    root = CACHE / f"{suite}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _make(suite, needs, root)
    return root


def _dependencies(package: Path) -> list[str]:
    """What the package depends on, or recommends, as apt writes it."""
    needs = []
    for field in ("Depends", "Recommends"):
        command = ["dpkg-deb", "--field", str(package), field]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        needs += re.split(r",\s*", answer.stdout.strip())
    return [need for need in needs if need]


def _make(suite: str, needs: tuple[str, ...], root: Path) -> None:
    """Lists and archives stay in it: without a network, apt installs from them."""
    fetch = f"apt-get satisfy -y -q --download-only {shlex.join(needs)}"
    hooks = [*HOOKS, "chroot $1 apt-get clean", f"chroot $1 {fetch}"]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--skip=cleanup/apt"]
    command += [f"--include={','.join(PACKAGES)}"]
    command += ['--aptopt=APT::Install-Recommends "false"']
    command += [f"--customize-hook={hook}" for hook in hooks]
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="making-") as place:
        made = Path(place) / "root"
        answer = subprocess.run(
            [*command, suite, str(made)], capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            raise ContainerError(f"Cannot make a root of Debian {suite}:\n{answer.stderr}")
        made.rename(root)
