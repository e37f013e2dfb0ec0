"""`events`: the marks of a boot from the journal, as a table, JSON or CSV."""

from __future__ import annotations

import argparse
import csv
import sys

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.boot_finder import find_boots
from chdebugd.ctl.boots import Boot, Mark
from chdebugd.ctl.mark_filter import MarkFilter, add_filter, filter_of
from chdebugd.ctl.output import Table, milliseconds
from chdebugd.trace.event import seconds

BOOT_HELP = "VM (its newest boot), VM:-1, VM:*, a boot's id, or FILE.json"
COLUMNS = ["vm", "boot", "seq", "elapsed_nsec", "component", "code", "name", "vcpu"]


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("events", "show the marks of a boot, from the journal", _run)
    parser.add_argument("boot", metavar="BOOT", help=BOOT_HELP)
    parser.add_argument("--csv", action="store_true", help="print comma separated values")
    add_filter(parser)


def _run(given: argparse.Namespace) -> int:
    output, wanted = output_of(given), filter_of(given)
    boots = find_boots(place_of(given), given.boot)
    if given.csv:
        _print_csv(boots, wanted)
    elif output.is_json:
        rows = [_row(boot, mark) for boot in boots for mark in boot.marks if wanted.takes(mark)]
        output.print_json(rows)
    else:
        with output.paged() as file:
            for at, boot in enumerate(boots):
                if len(boots) > 1:
                    print(f"{'' if not at else chr(10)}{boot.vm} {boot.boot_id}", file=file)
                _table(boot, wanted).print(file)
                for note in notes(boot):
                    print(note, file=file)
    return 0


def _row(boot: Boot, mark: Mark) -> dict[str, object]:
    values = [boot.vm, boot.boot_id, mark.seq, mark.elapsed_nsec, mark.stage, mark.code]
    return dict(zip(COLUMNS, [*values, mark.name, mark.vcpu], strict=True))


def _print_csv(boots: list[Boot], wanted: MarkFilter) -> None:
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for boot in boots:
        writer.writerows(_row(boot, mark) for mark in boot.marks if wanted.takes(mark))


def _table(boot: Boot, wanted: MarkFilter) -> Table:
    right = frozenset({"SEQ", "SECONDS", "+MS"})
    table = Table(["SEQ", "SECONDS", "+MS", "COMPONENT", "CODE", "NAME", "VCPU"], right)
    before = 0
    for mark in boot.marks:
        if wanted.takes(mark):
            at, step = seconds(mark.elapsed_nsec), milliseconds(mark.elapsed_nsec - before)
            table.add(mark.seq, at, step, mark.stage, f"{mark.code:#x}", mark.name, mark.vcpu)
        before = mark.elapsed_nsec
    return table


def notes(boot: Boot) -> list[str]:
    """Sentences on what a reader of the marks must know."""
    found = []
    if boot.missing:
        found.append(f"{boot.missing} marks are not in the journal; SEQ shows where.")
    if boot.dropped:
        found.append(f"{boot.dropped} marks found the ring full and were dropped.")
    if boot.stalled_usec:
        found.append(
            f"Guests of this VM waited {boot.stalled_usec} us for the journal or the log file; "
            "times include that."
        )
    return found
