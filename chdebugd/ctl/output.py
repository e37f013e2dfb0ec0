"""How results are shown: tables, JSON, a pager, and colours on a terminal only.

Tables on a terminal are rich's where it is installed; everywhere else they are plain text in
aligned columns that are never cut.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from chdebugd.ctl.errors import CtlError

PAGER = "less"
RICH_ROWS = 2000  # more of them take rich too long
LESS = "FRSXMK"  # as systemd's tools set it
STYLES = {
    "Host": "blue",
    "Firmware": "yellow",
    "Bootloader": "magenta",
    "Kernel": "cyan",
    "Userspace": "green",
    "Custom": "red",
    "running": "green",
    "failed": "red",
    "paused": "yellow",
}
"""Colours of words, wherever they stand alone in a cell."""


@dataclass(frozen=True)
class Output:
    """What the user asked for: JSON or text, a pager or none."""

    json: str = "off"
    """off, short or pretty."""
    pager: bool = True

    @property
    def is_json(self) -> bool:
        """Whether to print JSON and nothing else."""
        return self.json != "off"

    def print_json(self, value: Any) -> None:
        """One JSON value: a line of its own, or indented."""
        print(json.dumps(value, indent=2 if self.json == "pretty" else None), flush=True)

    @contextlib.contextmanager
    def paged(self) -> Iterator[TextIO]:
        """Where text goes that may be longer than the screen."""
        pager = os.environ.get("SYSTEMD_PAGER", os.environ.get("PAGER", PAGER))
        if not self.pager or not sys.stdout.isatty() or pager in ("", "cat"):
            yield sys.stdout
            return
        text = io.StringIO()
        yield text
        environment = os.environ | {"LESS": os.environ.get("SYSTEMD_LESS", LESS)}
        try:
            subprocess.run([pager], input=text.getvalue(), text=True, check=False, env=environment)
        except OSError:  # no pager is installed
            sys.stdout.write(text.getvalue())


def accept_any_text() -> None:
    """Let names that the terminal's character set lacks be escaped, not be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@dataclass
class Table:
    """Rows of text under headings; columns in `right` are aligned to the right."""

    headings: list[str]
    right: frozenset[str] = frozenset()
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """One row."""
        self.rows.append([str(cell) for cell in cells])

    def print(self, file: TextIO) -> None:
        """With rich where stdout is a terminal and the table is not too long, else plain."""
        is_short = len(self.rows) <= RICH_ROWS
        if sys.stdout.isatty() and is_short and (rich_text := self._rich()) is not None:
            file.write(rich_text)
        else:
            file.write(self.plain())

    def plain(self) -> str:
        """Aligned by spaces, two between columns."""
        lines = [self.headings, *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.headings))]
        return "".join(self._plain_line(line, widths) for line in lines)

    def _plain_line(self, line: list[str], widths: list[int]) -> str:
        cells = [
            cell.rjust(width) if heading in self.right else cell.ljust(width)
            for heading, cell, width in zip(self.headings, line, widths, strict=True)
        ]
        return "  ".join(cells).rstrip() + "\n"

    def _rich(self) -> str | None:
        """None where rich is not installed."""
        try:
            from rich import box
            from rich.console import Console
            from rich.table import Table as RichTable
            from rich.text import Text
        except ImportError:
            return None
        table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in self.headings:
            table.add_column(heading, justify="right" if heading in self.right else "left")
        for row in self.rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        console = Console(file=sys.stdout)
        # Nothing is cut: the pager, or the terminal itself, deals with long lines.
        console.width = max(console.width, console.measure(table).maximum)
        with console.capture() as captured:
            console.print(table)
        return captured.get()


def write_result(text: str, path: str | None) -> None:
    """Write a document to a file or stdout, in UTF-8 whatever the locale; raises CtlError."""
    data = text.encode(errors="backslashreplace")
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise CtlError(f"Cannot write '{path}': {error.strerror}; name another file") from None


def milliseconds(nsec: float) -> str:
    """Nanoseconds as milliseconds with three decimals: `1402.744`."""
    return f"{nsec / 1e6:.3f}"


def duration(nsec: float) -> str:
    """For a sentence: `12.345ms`, `1.403s`, `2min 3.456s`."""
    seconds = nsec / 1e9
    if abs(seconds) < 1:
        return f"{nsec / 1e6:.3f}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}min {rest:.3f}s" if minutes else f"{seconds:.3f}s"
