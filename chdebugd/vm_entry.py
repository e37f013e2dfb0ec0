"""The way into the process of one VM: `chdebugd-vm NAME`.

It binds RUNTIME_DIR/vm/NAME/sock and says that it is ready for a daemon.
"""

from __future__ import annotations

import contextlib
import getopt
import os
import socket
import sys
from typing import NamedTuple

from chdebugd.control import LAST_WORDS, SOCKET, VMS_DIR
from chdebugd.vm_process import VmProcess

SWITCH_INTERVAL = 0.0002  # seconds that an exit of the guest waits for sinks that drain (the GIL)
BACKLOG = 4  # daemons that wait to be let in: one, and those that were killed meanwhile
USAGE = """usage: chdebugd-vm [--runtime-dir DIR] [--ready-fd FD] NAME

Runs the virtual machine NAME for chdebugd, which starts this itself.

  --runtime-dir DIR  where the sockets lie; default: /run/chdebugd
  --ready-fd FD      closed when the socket is there
"""


class Arguments(NamedTuple):
    """The command line; argparse would take a tenth of a cold start."""

    name: str
    runtime_dir: str = "/run/chdebugd"
    ready_fd: int = -1


def parse_arguments(words: list[str]) -> Arguments:
    """Raises SystemExit, with a sentence where the words are wrong."""
    try:
        options, names = getopt.gnu_getopt(words, "h", ["help", "runtime-dir=", "ready-fd="])
        given = dict(options)
        if given.keys() & {"-h", "--help"}:
            print(USAGE, end="")
            raise SystemExit(0)
        [name] = names
        ready_fd = int(given.get("--ready-fd", -1))
    except (getopt.GetoptError, ValueError) as error:
        raise SystemExit(f"chdebugd-vm: {error}; give one name\n{USAGE}") from None
    return Arguments(name, given.get("--runtime-dir", Arguments("").runtime_dir), ready_fd)


def listen(directory: str) -> socket.socket:
    """The socket at which daemons call, in place of one that an earlier process left."""
    path = f"{directory}/{SOCKET}"
    for left in (path, f"{directory}/{LAST_WORDS}"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(BACKLOG)
    return listener


def tell_ready(ready_fd: int) -> None:
    """To systemd (sd_notify(3)) or to the daemon that holds the other end of a pipe."""
    if ready_fd >= 0:
        os.close(ready_fd)
    if path := os.environ.pop("NOTIFY_SOCKET", ""):
        address = "\0" + path[1:] if path.startswith("@") else path
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
            contextlib.suppress(OSError),
        ):
            notify.sendto(b"READY=1", address)


def main() -> int:
    """Run one VM until it ends; the exit status is 0 where it ended well."""
    arguments = parse_arguments(sys.argv[1:])
    sys.setswitchinterval(SWITCH_INTERVAL)
    directory = f"{arguments.runtime_dir}/{VMS_DIR}/{arguments.name}"
    with contextlib.suppress(FileExistsError):  # the daemon makes it first, for its units
        os.mkdir(directory, 0o700)
    process = VmProcess(arguments.name, directory)
    process.serve(listen(directory))
    tell_ready(arguments.ready_fd)
    process.loop.run()
    return process.exit_status


if __name__ == "__main__":
    raise SystemExit(main())
