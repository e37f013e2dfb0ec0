#!/usr/bin/python3
"""Write a newc cpio with /chdebug-init: mkcpio.py PROGRAM OUTPUT. Same input, same bytes."""

from __future__ import annotations

import sys
from pathlib import Path

SECTOR = 512


def entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One member: the header of 14 fields of eight hex digits, the name, the data."""
    size = len(name) + 1
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, size, 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return padded(header + name.encode() + b"\0", 4) + padded(data, 4)


def padded(data: bytes, to: int) -> bytes:
    """Zeros up to a multiple of `to`."""
    return data + bytes(-len(data) % to)


def main() -> None:
    """Build the archive."""
    program, output = map(Path, sys.argv[1:])
    archive = entry(1, "chdebug-init", 0o100755, program.read_bytes())
    output.write_bytes(padded(archive + entry(2, "TRAILER!!!", 0, b""), SECTOR))


main()
