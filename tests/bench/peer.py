"""The peers in C: compiled here when they are first used, and run beside us."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.bench import patience

SOURCES = Path(__file__).with_name("peers")
CFLAGS = ["-O2", "-Wall", "-Wextra", "-Werror"]
LIBRARIES = {
    "kvm_loop": "",
    "journal_loop": "-lsystemd",
    "signal_loop": "-lsystemd",
    "subscriber": "-lsystemd",
}


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="chdebugd-bench-")


@cache
def program(name: str) -> str:
    """The path of a peer's program."""
    target = f"{_directory().name}/{name}"
    source = str(SOURCES / f"{name}.c")
    libraries = LIBRARIES[name].split()
    subprocess.run(["gcc", *CFLAGS, source, "-o", target, *libraries], check=True)
    return target


def rom_file(rom: bytes, name: str) -> Path:
    """A guest's ROM as a file."""
    path = Path(_directory().name, f"{name}.rom")
    path.write_bytes(rom)
    return path


def bare_loop(rom: Path, events: int) -> list[int]:
    """CLOCK_MONOTONIC at each mark of a guest in the bare loop."""
    command = [program("kvm_loop"), str(rom), str(events)]
    with patience.running("The end of the bare loop's guest"):
        limit = patience.SECONDS
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=limit)
    return [stamp for (stamp,) in struct.iter_unpack("<Q", done.stdout)]


class Note(NamedTuple):
    """One signal as the subscriber got it."""

    seq: int
    elapsed_nsec: int
    handled_nsec: int


class Subscriber:
    """A subscriber in C; `notes` waits until it has all it wanted."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def notes(self) -> list[Note]:
        """What came, in order."""
        with patience.running("The last signal to the subscriber"):
            data, _ = self._process.communicate(timeout=patience.SECONDS)
        return [Note(*each) for each in struct.iter_unpack("<3Q", data)]


@contextmanager
def subscriber(address: str, path: str, signals: int) -> Iterator[Subscriber]:
    """One that listens."""
    command = [program("subscriber"), address, path, str(signals)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            patience.await_output(process.stdout, "The subscriber's word that it listens")
            # Not through the buffer: what follows the line are the notes.
            assert process.stdout.raw.read(6) == b"ready\n"  # type: ignore[attr-defined]
            yield Subscriber(process)
        finally:
            process.kill()


def deltas(stamps: list[int], skip: int = 100) -> list[int]:
    """From each mark to the next, without the first ones, which find cold caches."""
    return [later - stamp for stamp, later in zip(stamps[skip:], stamps[skip + 1 :], strict=False)]
