"""What the journal says it has; the one door to python-systemd's reader.

These calls wait for files and for journald: call them off the event loop.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from chdebugd.trace.journal import MessageId

LOOK_AGAIN = 0.2  # seconds, where the kernel does not tell us of a change


class LastMark(NamedTuple):
    """The newest event of a VM that the journal has."""

    boot_id: str
    seq: int


def wait_for_takeover(takeover_id: str, timeout: float) -> bool:
    """Whether the entry with this TAKEOVER_ID has come within `timeout` seconds.

    journald takes entries in the order in which they were sent, from all processes through one
    socket: once this entry is there, all that was sent before it is there too.
    """
    from systemd import journal

    deadline = time.monotonic() + timeout
    with journal.Reader() as reader:
        reader.add_match(TAKEOVER_ID=takeover_id, **_ours())
        while not reader.get_next():
            if time.monotonic() >= deadline:
                return False
            reader.wait(LOOK_AGAIN)
    return True


def last_sequence(boot_id: str) -> int:
    """The highest SEQ of the boot's events in the journal, 0 where it has none."""
    mark = _newest(VM_BOOT=boot_id)
    return mark.seq if mark else 0


def last_mark(vm: str) -> LastMark | None:
    """The newest event of the VM of this name, of whatever boot."""
    return _newest(VM=vm)


def _newest(**match: str) -> LastMark | None:
    from systemd import journal

    with journal.Reader() as reader:
        reader.add_match(MESSAGE_ID=MessageId.EVENT.value, **match, **_ours())
        reader.seek_tail()
        newest = reader.get_previous()
        return LastMark(str(newest["VM_BOOT"]), int(newest["SEQ"])) if newest else None


def _ours() -> dict[str, str]:
    """Entries of our user: anyone may send some that look like ours otherwise."""
    return {"_UID": str(os.getuid())}
