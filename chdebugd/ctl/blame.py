"""`blame`: the steps of a boot, the longest first."""

from __future__ import annotations

import argparse

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.boot_finder import find_boot
from chdebugd.ctl.events import BOOT_HELP
from chdebugd.ctl.output import Table, milliseconds
from chdebugd.ctl.steps import START, Step, steps_of
from chdebugd.ctl.times import ORIGIN_HELP, points_from


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("blame", "show a boot's longest steps first", _run)
    parser.add_argument("boot", metavar="BOOT", help=BOOT_HELP)
    parser.add_argument("--origin", metavar="POINT", default=START, help=ORIGIN_HELP)


def _run(given: argparse.Namespace) -> int:
    output = output_of(given)
    points = points_from(find_boot(place_of(given), given.boot), given.origin)
    steps = sorted(steps_of(points), key=lambda step: -step.nsec)
    total = points[-1].nsec if points else 0
    if output.is_json:
        output.print_json([_row(step) for step in steps])
        return 0
    table = Table(["MS", "SHARE", "STAGE", "FROM", "TO"], frozenset({"MS", "SHARE"}))
    for step in steps:
        share = f"{step.nsec / total:.1%}" if total else "-"
        ends = step.begin.label, step.end.label
        table.add(milliseconds(step.nsec), share, step.stage, *ends)
    with output.paged() as file:
        table.print(file)
    return 0


def _row(step: Step) -> dict[str, object]:
    return {
        "stage": step.stage,
        "from": step.begin.key,
        "to": step.end.key,
        "from_name": step.begin.name,
        "to_name": step.end.name,
        "nsec": step.nsec,
    }
