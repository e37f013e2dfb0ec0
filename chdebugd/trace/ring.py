"""The event ring as Python sees it; ring.h has the rules. Imports nothing but the extension."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from enum import IntEnum
from typing import Any, Self

from chdebugd.trace._ring import ffi, lib
from chdebugd.trace.event import Event

CAPACITY: int = lib.CHD_RING_CAPACITY
KEPT: int = lib.CHD_RING_KEPT
"""Records that went to journald and are kept all the same, should it die with one of them."""
_SIZE: int = lib.chd_ring_size()
_RECORD = struct.Struct("<QQQIHBx")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
BATCH = 512  # events that one copy takes at most
_MADV_POPULATE_WRITE = 23  # madvise(2), since Linux 5.14


class Reader(IntEnum):
    """The three readers; the first two are durable, the third may be lapped."""

    JOURNAL = lib.CHD_READER_JOURNAL
    LOG = lib.CHD_READER_LOG
    SIGNALS = lib.CHD_READER_SIGNALS


class EntryTexts:
    """What entries of events have in common, by code, for one boot."""

    def __init__(self, boot: int) -> None:
        self.boot = boot
        self.texts = ffi.new("struct chd_entry_text[256]")
        self._kept: list[Any] = []  # the texts point into these

    def set(self, code: int, head: bytes, tail: bytes) -> None:
        """The fields of `code` before the figures, the last of them cut short; and behind."""
        pointers = ffi.from_buffer(head), ffi.from_buffer(tail)
        self._kept.append(pointers)
        self.texts[code] = (pointers[0], len(head), pointers[1], len(tail))


class Ring:
    """One VM process's events in a sealed memfd, shared with the daemon.

    The seals matter: memory that its other owner could shrink would end a reader with SIGBUS.
    """

    def __init__(self, fd: int) -> None:
        """Take over `fd`. Raises ValueError where it is not a sealed ring."""
        self.fd = fd
        try:
            sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            sealed = 0
        if os.fstat(fd).st_size != _SIZE or sealed & fcntl.F_SEAL_SHRINK == 0:
            raise ValueError("The descriptor is not an event ring of this version")
        self._map = mmap.mmap(fd, _SIZE)
        self._is_populated = False
        self._buffer = ffi.from_buffer(self._map)
        self._c = ffi.cast("struct chd_ring *", self._buffer)

    @classmethod
    def create(cls) -> Self:
        """A new ring with an identity of its own and no boot in it."""
        fd = os.memfd_create("chdebugd-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        ring = cls(fd)
        ring._c.magic = lib.CHD_RING_MAGIC
        ring._c.instance = os.urandom(16)
        ring._c.created_nsec = time.monotonic_ns()
        return ring

    def duplicate(self) -> Self:
        """The same, opened anew: systemd would keep no second one of the same opening.

        Where the process that made it took our rights away (fchmod(2)), the same opening must do.
        Raises OSError where no file may be opened.
        """
        try:
            fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        except PermissionError:
            fd = os.dup(self.fd)
        try:
            return type(self)(fd)
        except BaseException:
            os.close(fd)
            raise

    def populate(self) -> None:
        """Have all pages now: each page fault that is left costs a guest's mark its time."""
        if not self._is_populated:
            self._is_populated = True
            with contextlib.suppress(OSError):  # an older Linux; then each comes when it is used
                self._map.madvise(_MADV_POPULATE_WRITE)

    def release_pages(self) -> None:
        """Map none of the pages until they are read again; what is in them stays (madvise(2))."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the memory; the other owner keeps it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            ffi.release(self._buffer)
            self._c = ffi.NULL
            self._map.close()
            os.close(fd)

    @property
    def address(self) -> int:
        """Where the ring lies in this process, for the vCPU's C loop."""
        return int(ffi.cast("uintptr_t", self._c))

    # One boot

    def start_boot(self, start_nsec: int, log_nsec: int) -> None:
        """Begin the next boot: sequence numbers from 1, elapsed from `start_nsec`.

        `log_nsec` is when the log of this boot began; both are CLOCK_MONOTONIC.
        """
        lib.chd_ring_start_boot(self._c, start_nsec, log_nsec)

    @property
    def boot(self) -> int:
        """The number of the boot that runs, 0 before the first."""
        return int(self._c.boot)

    def boot_id(self, boot: int) -> str:
        """32 hexadecimal digits, the same in every process that holds the ring."""
        instance = int.from_bytes(bytes(self._c.instance), "big")
        return f"{(instance + boot) % (1 << 128):032x}"

    def boot_of(self, boot_id: str) -> int | None:
        """The number of the boot with this id; None where it is none of this ring's."""
        instance = int.from_bytes(bytes(self._c.instance), "big")
        boot = (int(boot_id, 16) - instance) % (1 << 128)
        return boot if 0 < boot <= self.boot else None

    @property
    def created_nsec(self) -> int:
        """CLOCK_MONOTONIC when its VM process made it."""
        return int(self._c.created_nsec)

    @property
    def start_nsec(self) -> int:
        """CLOCK_MONOTONIC at the start of this boot."""
        return int(self._c.start_nsec)

    @property
    def log_lead_nsec(self) -> int:
        """How long before the start of this boot its log began."""
        return int(self._c.start_nsec - self._c.log_nsec)

    @property
    def first_entry_nsec(self) -> int:
        """CLOCK_MONOTONIC when vCPU 0 first entered the guest in this boot, 0 before."""
        return int(lib.chd_ring_first_entry_nsec(self._c))

    @property
    def first_ticket(self) -> int:
        """The position of the first event of this boot."""
        return int(self._c.first_ticket)

    def boot_events(self) -> int:
        """How many events this boot has made."""
        return self.head - self.first_ticket

    # Counts over all boots of this process

    @property
    def head(self) -> int:
        """How many events were ever put."""
        return int(lib.chd_ring_head(self._c))

    @property
    def dropped(self) -> int:
        """How many bytes found the ring full while it drops."""
        return int(lib.chd_ring_dropped(self._c))

    @property
    def stalled_nsec(self) -> int:
        """How long vCPUs waited on a full ring, summed."""
        return int(lib.chd_ring_stalled_nsec(self._c))

    def skip(self, count: int = 0) -> int:
        """Count `count` more signals as skipped; returns how many there are."""
        return int(lib.chd_ring_skip(self._c, count))

    @property
    def last_code(self) -> int:
        """The last byte that landed on port 0x80, as a read of the port returns it."""
        return int(lib.chd_ring_last_code(self._c))

    @property
    def forbidden_call(self) -> int | None:
        """The number of the system call for which a vCPU thread's filter ended the process."""
        number = int(lib.chd_ring_forbidden_call(self._c))
        return number - 1 if number else None

    def set_drop_when_full(self, drop: bool) -> None:
        """Count and drop events that find the ring full, instead of making the guest wait."""
        self._c.drop_when_full = drop

    @property
    def is_full(self) -> bool:
        """Whether a guest would have to wait now."""
        return int(lib.chd_ring_used(self._c)) >= CAPACITY

    @property
    def is_roomy(self) -> bool:
        """Whether a guest that waits may go on: not for each single place that is free."""
        return int(lib.chd_ring_used(self._c)) <= CAPACITY * 3 // 4

    def hold(self, seconds: float) -> None:
        """Keep what is kept now for so long at most; what is held already stays held, too."""
        first = max(self.position(Reader.JOURNAL) - KEPT, 0) + 1
        held = int(lib.chd_ring_held(self._c))
        until = time.monotonic_ns() + int(seconds * 1e9)
        lib.chd_ring_hold(self._c, min(held, first) if held else first, until)

    def release(self) -> None:
        """Hold nothing."""
        lib.chd_ring_hold(self._c, 0, 0)

    # Readers

    def position(self, reader: Reader) -> int:
        """The ticket that `reader` wants next."""
        return int(lib.chd_ring_position(self._c, reader))

    def move(self, reader: Reader, position: int) -> None:
        """Say that `reader` is done with all before `position`."""
        lib.chd_ring_move(self._c, reader, position)

    def copy(self, position: int, limit: int = BATCH) -> tuple[list[Event], int]:
        """Up to `limit` whole events from `position` on, and how many before them are lost."""
        count = min(limit, BATCH)
        records = ffi.new("struct chd_event[]", count)
        lost = ffi.new("uint64_t *")
        n = lib.chd_ring_copy(self._c, position, records, count, lost)
        data = ffi.buffer(records, n * _RECORD.size)
        return list(map(Event._make, _RECORD.iter_unpack(data))), int(lost[0])

    def send_entries(self, fd: int, texts: EntryTexts, limit: int) -> tuple[int, int]:
        """Send the journal's next events to journald at `fd`, `limit` at most.

        Returns how many, and 0 or an errno: the socket's, ENODATA where a text is missing or
        another boot begins, EOVERFLOW where records were overwritten. The GIL is free.
        """
        problem = ffi.new("int *")
        sent = lib.chd_journal_drain(self._c, fd, texts.texts, texts.boot, limit, problem)
        return int(sent), int(problem[0])

    def sleep(self, reader: Reader, position: int | None = None) -> bool:
        """Ask to be woken; False where there is something to read already.

        `position` is how far the reader has read, where it has not moved that far yet.
        """
        read = self.position(reader) if position is None else position
        return bool(lib.chd_ring_sleep(self._c, reader, read))

    def write(self, code: int, *, vcpu: int = 0, wake: tuple[int, int] = (-1, -1)) -> bool:
        """Put one event as a vCPU does, for tests; False where the ring is full."""
        return bool(lib.chd_ring_write(self._c, vcpu, code, *wake))
