"""A booted container with verbs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from container.cgroup import own_group
from container.host import check_host
from container.trouble import ContainerError

BOOT_TIMEOUT = 90  # seconds
TIMEOUT = 300  # seconds that a command may take
KVM = (10, 232)  # Linux Documentation/admin-guide/devices.txt
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MANAGER = ("org.chdebugd1", "/org/chdebugd1", "org.chdebugd1.Manager")
EVENT = "a1c7b8d2e0f74b7f9d5f3c6e80de0001"  # MESSAGE_ID, chdebugd/trace/journal.py
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
# In namespaces of its own: what runs and what is mounted goes with the first process of them.
START = """
set -e
place=$1 layers=$2 keep=$3
shift 3
for procs in "$@"; do echo $$ > "$procs"; done
mount -t tmpfs -o mode=755 chdebugd "$place"
mkdir "$place/upper" "$place/work" "$place/root"
options="lowerdir=$layers,upperdir=$place/upper,workdir=$place/work"
mount -t overlay -o "$options" overlay "$place/root"
systemd-nspawn --quiet --boot --directory="$place/root" --keep-unit --register=no \
    --private-network --console=pipe --notify-ready=yes --link-journal=no
[ -z "$keep" ] || cp --archive "$place/upper" "$keep"
"""


class Container:
    """The Debian in `root`, booted. All that it writes is in memory; nothing outlives us."""

    def __init__(self, root: Path, *, over: Path | None = None, keep: Path | None = None) -> None:
        """Boot; done once systemd says so. Raises ContainerError.

        `keep` is a directory that `power_off` makes of what was written; as `over` it lies over
        the same root in another container.
        """
        check_host()
        with contextlib.ExitStack() as stack:
            self._console: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            prefix, groups = stack.enter_context(own_group())
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
                notified.bind(f"\0chdebugd-container-{os.getpid()}-{id(self)}")
                layers = f"{over}:{root}" if over else str(root)
                words = [str(place_beside(root)), layers, str(keep or ""), *map(str, groups)]
                self._supervisor = self._start(prefix, words, notified.getsockname())
                stack.callback(self._end)
                # Closed after that: systemd tells of each job, and would wait for who reads it.
                self.leader = self._wait_ready(notified)
            self._make_kvm()
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the plug."""
        self._resources.close()

    def power_off(self) -> None:
        """Shut down in order, and close."""
        os.kill(self.leader, signal.SIGRTMIN + 4)
        self._supervisor.wait(TIMEOUT)
        self.close()

    # Commands

    def command(self, *words: str, user: str = "root") -> list[str]:
        """What runs `words` inside, as `user`, for subprocess on the host."""
        enter = ["nsenter", f"--target={self.leader}", *NAMESPACES, "--"]
        enter += ["env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        enter += ["setpriv", "--pdeathsig=KILL"]
        if user != "root":
            enter += [f"--reuid={user}", f"--regid={self._group_of(user)}", "--init-groups"]
        return [*enter, *words]

    def run(
        self,
        *words: str,
        user: str = "root",
        check: bool = True,
        stdin: str = "",
        pass_fds: Sequence[int] = (),
        timeout: float = TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; raises ContainerError where it fails and `check` is set."""
        done = subprocess.run(
            self.command(*words, user=user),
            input=stdin,
            capture_output=True,
            text=True,
            pass_fds=pass_fds,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            output = done.stdout + done.stderr
            raise ContainerError(f"{' '.join(words)}: exit status {done.returncode}\n{output}")
        return done

    def user(self, name: str, *groups: str) -> str:
        """Make a user who cannot log in, in these groups; its name."""
        extra = ["--groups", ",".join(groups)] if groups else []
        self.run("useradd", "--system", "--user-group", *extra, name)
        return name

    # Files

    def put(self, path: str, data: bytes | Path, mode: int = 0o644) -> None:
        """Write a file inside, owned by root."""
        data = data.read_bytes() if isinstance(data, Path) else data
        script = 'install -D -m "$2" /dev/stdin "$1"'
        command = self.command("sh", "-c", script, "sh", path, f"{mode:o}")
        subprocess.run(command, input=data, check=True, timeout=TIMEOUT)

    def get(self, path: str) -> bytes:
        """What a file inside holds; raises ContainerError."""
        done = subprocess.run(
            self.command("cat", path), capture_output=True, timeout=TIMEOUT, check=False
        )
        if done.returncode != 0:
            raise ContainerError(done.stderr.decode())
        return done.stdout

    def install(self, package: Path) -> str:
        """Install the .deb as a user does, by apt, and without a network; what apt said."""
        inside = f"/root/{package.name}"
        self.put(inside, package)
        return self.run("apt-get", "install", "--yes", inside).stdout

    # chdebugd

    def busctl(
        self, *words: str, user: str = "root", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run busctl."""
        return self.run("busctl", *words, user=user, check=check)

    def start_vm(self, name: str, *options: tuple[str, ...], user: str = "root") -> str:
        """StartVM by busctl, an option as its words are: key, type, value; the VM's path."""
        words = ["call", *MANAGER, "StartVM", "sa{sv}", name, str(len(options))]
        words += [word for option in options for word in option]
        return self.busctl(*words, user=user).stdout.split('"')[1]

    def journal(self, *words: str, **match: str) -> list[dict[str, str]]:
        """Entries whose fields match, the oldest first; `words` are options of journalctl."""
        fields = [f"{key}={value}" for key, value in match.items()]
        command = ["journalctl", "--quiet", "--output=json", "--all", *words, *fields]
        return [json.loads(line) for line in self.run(*command).stdout.splitlines()]

    def marks(self, vm: str) -> list[dict[str, str]]:
        """The journal's entries about what the guest wrote to its debug port."""
        return self.journal("-t", "chdebugd", VM=vm, MESSAGE_ID=EVENT)

    # How it boots

    def _start(
        self, prefix: list[str], words: list[str], address: bytes
    ) -> subprocess.Popen[bytes]:
        command = ["setpriv", "--pdeathsig=KILL", *prefix]
        command += ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]
        command += ["sh", "-c", START, "sh", *words]
        environment = os.environ | {
            "NOTIFY_SOCKET": "@" + address[1:].decode(),
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )

    def _end(self) -> None:
        """Kill the first process of the namespaces; it is gone once all others are."""
        with contextlib.suppress(ValueError, OSError):
            first = os.pidfd_open(_only_child(self._supervisor.pid))
            signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [], TIMEOUT)
            os.close(first)
        self._supervisor.kill()
        self._supervisor.wait()

    def _wait_ready(self, notified: socket.socket) -> int:
        """The process id of the container's PID 1, once systemd has started everything."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        notified.settimeout(1)
        while True:
            with contextlib.suppress(TimeoutError):
                if "READY=1" in notified.recv(4096).decode().splitlines():
                    return _only_child(_only_child(_only_child(self._supervisor.pid)))
            if self._supervisor.poll() is not None or time.monotonic() > deadline:
                raise ContainerError(f"The container did not boot:\n{self.console()}")

    def console(self) -> str:
        """What systemd printed."""
        self._console.seek(0)
        return self._console.read().decode(errors="replace")

    def _make_kvm(self) -> None:
        """A device node of its own: one that is bound would change the host's mode and group."""
        if Path("/dev/kvm").exists():
            self.run("mknod", "--mode=0660", "/dev/kvm", "c", *map(str, KVM))
            self.run("chgrp", "kvm", "/dev/kvm")

    def _group_of(self, user: str) -> str:
        return self.run("id", "--group", user).stdout.strip()


def place_beside(root: Path) -> Path:
    """An empty directory: each container mounts its own files there, where only it sees them."""
    place = root.parent / "mnt"
    place.mkdir(exist_ok=True)
    return place


def _only_child(pid: int) -> int:
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
