"""`time`: one boot's host phases, components and total on one clock, from a chosen origin."""

from __future__ import annotations

import argparse
from typing import Any

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.boot_finder import find_boot
from chdebugd.ctl.boots import Boot
from chdebugd.ctl.errors import UsageError
from chdebugd.ctl.events import BOOT_HELP, notes
from chdebugd.ctl.output import Table, duration, milliseconds
from chdebugd.ctl.steps import (
    REQUEST,
    START,
    Point,
    find_point,
    points_of,
    since,
    stage_times,
    steps_of,
)

ORIGIN_HELP = "time 0: request, start (the default), first-entry, a code or a mark's name"


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("time", "show where a boot's time went, by component and step", _run)
    parser.add_argument("boot", metavar="BOOT", help=BOOT_HELP)
    parser.add_argument("--origin", metavar="POINT", default=START, help=ORIGIN_HELP)


def points_from(boot: Boot, origin: str) -> list[Point]:
    """The points of a boot since an origin; raises UsageError where it has no such point."""
    points = points_of(boot)
    if origin == REQUEST and boot.requested_nsec is None:
        raise UsageError(f"Boot {boot.boot_id} followed a reset: nobody asked for it; use start")
    return since(points, find_point(points, origin))


def _run(given: argparse.Namespace) -> int:
    output = output_of(given)
    boot = find_boot(place_of(given), given.boot)
    points = points_from(boot, given.origin)
    if output.is_json:
        output.print_json(_to_json(boot, given.origin, points))
        return 0
    with output.paged() as file:
        print(sentence(boot, given.origin, points), file=file)
        print(file=file)
        _table(points).print(file)
        for note in notes(boot) + _overhead(boot):
            print(note, file=file)
    return 0


def sentence(boot: Boot, origin: str, points: list[Point]) -> str:
    """`Boot of 'vm' took 1.2ms (Host) + 3.4ms (Kernel) = 4.6ms from start to 0x41.`"""
    parts = [f"{duration(nsec)} ({stage})" for stage, nsec in stage_times(points).items()]
    last = points[-1]
    if not parts:
        return f"Boot of '{boot.vm}' has nothing after {origin}."
    total = f" = {duration(last.nsec)}" if len(parts) > 1 else ""
    return f"Boot of '{boot.vm}' took {' + '.join(parts)}{total} from {origin} to {last.label}."


def _table(points: list[Point]) -> Table:
    right = frozenset({"MS", "+MS"})
    table = Table(["MS", "+MS", "STAGE", "POINT"], right)
    before = points[0].nsec if points else 0
    for point in points:
        at, step = milliseconds(point.nsec), milliseconds(point.nsec - before)
        table.add(at, step, point.stage, point.label)
        before = point.nsec
    return table


def _overhead(boot: Boot) -> list[str]:
    """What the marks themselves cost, where the host measured it."""
    if not boot.exit_cost_nsec or not boot.marks:
        return []
    cost = boot.exit_cost_nsec * len(boot.marks)
    each = boot.exit_cost_nsec / 1e3
    return [f"Of that, {len(boot.marks)} marks cost about {duration(cost)} ({each:.1f} us each)."]


def _to_json(boot: Boot, origin: str, points: list[Point]) -> dict[str, Any]:
    return {
        "vm": boot.vm,
        "boot": boot.boot_id,
        "origin": origin,
        "total_nsec": points[-1].nsec if points else 0,
        "stages_nsec": stage_times(points),
        "exit_cost_nsec": boot.exit_cost_nsec,
        "points": [
            {"key": p.key, "name": p.name, "stage": p.stage, "nsec": p.nsec} for p in points
        ],
        "steps": [{"key": step.key, "nsec": step.nsec} for step in steps_of(points)],
    }
