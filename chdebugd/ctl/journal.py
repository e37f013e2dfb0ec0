"""What the journal has of chdebugd, through journalctl: the one door to it.

journalctl reads the journal of this machine, of a container, of another machine by ssh, and files
in a directory, all in the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from chdebugd.ctl.errors import CtlError
from chdebugd.ctl.place import Place
from chdebugd.trace.journal import IDENTIFIER

FIELDS = (
    "MESSAGE MESSAGE_ID VM VM_BOOT COMPONENT CODE CODE_NAME CODE_STAGE ELAPSED_NSEC SEQ VCPU PHASE "
    "START_NSEC REQUESTED_NSEC CODE_MAP CPUS MEMORY RESULT EVENTS DROPPED STALLED_USEC LOST "
    "EXIT_COST_NSEC NEXT_BOOT _UID _SYSTEMD_UNIT _MACHINE_ID"
).split()
UNIT_PREFIX = "chdebugd"
MACHINE_ID = Path("/etc/machine-id")
NO_ACCESS = "if they should be there, join the group systemd-journal or ask as root"

Entry = dict[str, str]
"""One entry: its fields, those of FIELDS, and __REALTIME_TIMESTAMP and __MONOTONIC_TIMESTAMP."""


def entries(place: Place, *matches: str, newest: int | None = None) -> Iterator[Entry]:
    """The entries that match, the oldest first, or the `newest` of them, the newest first.

    A match is FIELD=value; matches of one field are alternatives. Raises CtlError.
    """
    limit = [] if newest is None else ["--reverse", f"--lines={newest}"]
    with _journalctl(place, [*limit, *matches]) as process:
        assert process.stdout is not None
        yield from _parse(process.stdout)
        _check(process)


def _journalctl(place: Place, words: list[str]) -> subprocess.Popen[bytes]:
    output = [
        "--quiet",
        "--no-pager",
        "--all",
        "--output=json",
        f"--output-fields={','.join(FIELDS)}",
    ]
    command = place.journalctl(*output, *words, f"SYSLOG_IDENTIFIER={IDENTIFIER}")
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise CtlError(f"Cannot run {command[0]}: {error.strerror}; install it") from None


def _check(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    complaint = process.stderr.read().decode(errors="replace").strip()
    # journalctl --reverse says 1 where nothing matched, and then it has nothing to complain of.
    if process.wait() and complaint:
        raise CtlError(f"journalctl cannot read the journal: {complaint}; {NO_ACCESS}")


def _parse(lines: Iterable[bytes]) -> Iterator[Entry]:
    writers = Writers()
    for line in lines:
        entry = {name: _text(value) for name, value in json.loads(line).items()}
        if writers.wrote(entry):
            yield entry


def _text(value: object) -> str:
    """A field's value: journalctl gives bytes as numbers, and a list where it has several."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
        return bytes(value).decode(errors="backslashreplace")
    return _text(value[-1]) if isinstance(value, list) and value else ""


class Writers:
    """Who may speak for chdebugd: its units, their user, root, and our own processes.

    Anyone may log under its identifier. journald names the unit only while the process lives, and
    the user always; the last marks of a short VM are often read when its process is gone.
    """

    def __init__(self) -> None:
        self._ours = {"0", str(os.getuid())}
        self._users: set[tuple[str, str]] = set()
        with contextlib.suppress(KeyError, OSError):
            machine = MACHINE_ID.read_text().strip()
            self._users.add((machine, str(pwd.getpwnam(IDENTIFIER).pw_uid)))

    def wrote(self, entry: Entry) -> bool:
        """Whether chdebugd wrote the entry; learns its user on other machines by its units."""
        user = entry.get("_MACHINE_ID", ""), entry.get("_UID", "")
        if entry.get("_SYSTEMD_UNIT", "").startswith(UNIT_PREFIX):
            self._users.add(user)
            return True
        return user in self._users or user[1] in self._ours
