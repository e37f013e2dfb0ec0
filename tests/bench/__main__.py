"""`python -m tests.bench [NAME...]`: run rows, print the table, write JSON."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.bench import clock, marks, marks_unit, signals, size, start, sustained
from tests.bench.report import Figure, table_head, table_line, write_json

Row = Callable[[int], Coroutine[Any, Any, list[Figure]]]
ROWS: dict[str, tuple[Row, int]] = {
    "mark": (marks.mark, 7),
    "mark-unit": (marks_unit.mark_unit, 7),
    "mark-load": (marks.mark_load, 5),
    "log": (sustained.log, 5),
    "journal": (sustained.journal, 5),
    "signals": (signals.signals, 5),
    "latency": (signals.latency, 3),
    "start": (start.start, 15),
    "start-child": (start.start_child, 15),
    "memory": (size.memory, 1),
    "many": (size.many, 1),
    "clock": (clock.clock, 9),
    "idle": (size.idle, 1),
}
"""Each row, and how often it is repeated unless told otherwise."""


def main() -> int:
    """The exit status is 0 whatever the figures are: they depend on the machine.

    It is 1 where a row has no figures because something did not come in time.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeat", type=int, default=0, help="repetitions of each row")
    parser.add_argument("--json", type=Path, default=Path(".cache/bench.json"))
    options = parser.parse_args()
    figures: list[Figure] = []
    status = 0
    print(table_head())
    for name in options.names or ROWS:
        row, repeat = ROWS[name]
        try:
            measured = asyncio.run(row(options.repeat or repeat))
        except TimeoutError as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
            continue
        for figure in measured:
            print(table_line(figure), flush=True)
        figures += measured
    write_json(options.json, figures)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
