"""What the journal says it has; the one door to python-systemd's reader.

These calls wait for files and for journald: call them off the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
import uuid
from collections.abc import Callable, Iterator, Set
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from chdebugd.trace.journal import MessageId

LOOK_AGAIN = 0.2  # seconds, where the kernel does not tell us of a change
PLACES = ("/var/log/journal", "/run/log/journal")  # journald.conf(5), Storage=
SPARE = 16  # descriptors that a reader needs beside those of the files, and others meanwhile
STARTS = 64  # lives of journald that are looked at, at most
JOURNALD_STARTED = "f77379a8490b408bbe5f6940505a777b"  # systemd, sd-messages.h


class JournalledMark(NamedTuple):
    """An event that the journal has."""

    boot_id: str
    seq: int


def wait_for_takeover(takeover_id: str, timeout: float) -> bool:
    """Whether the entry with this TAKEOVER_ID has come within `timeout` seconds.

    journald takes entries in the order in which they were sent, from all processes through one
    socket: once this entry is there, all that was sent before it is there too.
    """
    deadline = time.monotonic() + timeout
    with _reader() as reader:
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


def last_mark(vm: str) -> JournalledMark | None:
    """The newest event of the VM of this name, of whatever boot."""
    return _newest(VM=vm)


def has_end(boot_id: str) -> bool:
    """Whether the journal has the entry that the VM of this boot stopped or failed."""
    with _reader() as reader:
        for kind in (MessageId.VM_STOPPED, MessageId.VM_FAILED):
            reader.add_match(MESSAGE_ID=kind.value, VM_BOOT=boot_id, **_ours())
        return bool(reader.get_next())


def dropped_told(vm: str, boots: Set[str]) -> int:
    """How many dropped events of these boots of a VM the journal tells of."""
    with _reader() as reader:
        reader.add_match(MESSAGE_ID=MessageId.VM_DROPPED.value, VM=vm, **_ours())
        return sum(_dropped(found, boots) for found in reader)


def journald_starts(since_nsec: int) -> list[str]:
    """Cursors of journald's first entries in its lives since then (CLOCK_MONOTONIC), in order."""
    with _reader() as reader:
        reader.add_match(MESSAGE_ID=JOURNALD_STARTED, _TRANSPORT="driver")
        reader.seek_tail()
        starts: list[str] = []
        host_boot = None
        while len(starts) < STARTS and (start := reader.get_previous()):
            time = start["__MONOTONIC_TIMESTAMP"]
            host_boot = host_boot or time.bootid
            if time.bootid != host_boot or _nsec(time.timestamp) < since_nsec:
                break
            starts.insert(0, str(start["__CURSOR"]))
    return starts


def marks_around(cursor: str, vm: str) -> tuple[JournalledMark | None, JournalledMark | None]:
    """The VM's last event before the entry at `cursor` and the first one after it, in turn.

    Events that were sent again do not count: they are out of turn.
    """
    with _reader() as reader:
        reader.add_match(MESSAGE_ID=MessageId.EVENT.value, VM=vm, **_ours())
        reader.seek_cursor(cursor)
        before = _in_turn(reader.get_previous)
        reader.seek_cursor(cursor)
        return before, _in_turn(reader.get_next)


def marks_sent_again(vm: str) -> set[JournalledMark]:
    """The VM's events that the journal has because they were sent again."""
    with _reader() as reader:
        reader.add_match(MESSAGE_ID=MessageId.EVENT.value, VM=vm, RESENT="1", **_ours())
        return {mark for entry in reader if (mark := _mark(entry))}


@contextlib.contextmanager
def _reader() -> Iterator[Any]:
    """Of all files of the journal; raises OSError where there are too few descriptors for them.

    The library passes over files that it cannot open, and does not say so.
    """
    from systemd import journal

    files = sum(1 for place in PLACES for _ in Path(place).glob("*/*.journal*"))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if len(os.listdir("/proc/self/fd")) + files + SPARE > limit:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with journal.Reader() as reader:
        yield reader


def _newest(**match: str) -> JournalledMark | None:
    with _reader() as reader:
        reader.add_match(MESSAGE_ID=MessageId.EVENT.value, **match, **_ours())
        reader.seek_tail()
        return _in_turn(reader.get_previous)


def _in_turn(step: Callable[[], dict[str, Any]]) -> JournalledMark | None:
    while found := step():
        if "RESENT" not in found and (mark := _mark(found)):
            return mark
    return None


def _mark(entry: dict[str, Any]) -> JournalledMark | None:
    """None where it is broken: a VM process that its guest took over may have written it."""
    with contextlib.suppress(KeyError, ValueError, TypeError):
        boot_id = uuid.UUID(str(entry["VM_BOOT"])).hex
        return JournalledMark(boot_id, int(entry["SEQ"]))
    return None


def _dropped(entry: dict[str, Any], boots: Set[str]) -> int:
    with contextlib.suppress(KeyError, ValueError, TypeError):
        if entry["VM_BOOT"] in boots:
            return int(entry["DROPPED"])
    return 0


def _nsec(time: timedelta) -> int:
    return time // timedelta(microseconds=1) * 1000


def _ours() -> dict[str, str]:
    """Entries of our user: anyone may send some that look like ours otherwise."""
    return {"_UID": str(os.getuid())}
