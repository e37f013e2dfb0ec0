"""`compare`: boots or saved runs, step by step: the difference, how sure it is, what it means."""

from __future__ import annotations

import argparse
from typing import Any, TextIO

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.boot_finder import find_boots
from chdebugd.ctl.boots import Boot
from chdebugd.ctl.comparison import CONFIDENCE, NO_SCIPY, Difference, has_scipy
from chdebugd.ctl.comparison import compare as compare_figures
from chdebugd.ctl.errors import ExitStatus
from chdebugd.ctl.events import BOOT_HELP
from chdebugd.ctl.output import Table, milliseconds
from chdebugd.ctl.samples import Samples, sample

TOLERANCE = 5.0  # percent


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("compare", "compare boots, or saved runs, step by step", _run)
    parser.add_argument("a", metavar="A", help=BOOT_HELP)
    parser.add_argument("b", metavar="B", help="the same; what changed since A")
    parser.add_argument(
        "--check", action="store_true", help="exit status 5 where B is significantly slower"
    )
    add_tolerance(parser)


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """Add --tolerance."""
    parser.add_argument(
        "--tolerance",
        metavar="PERCENT",
        type=float,
        default=TOLERANCE,
        help="what a median may grow without being called too slow (default: %(default)g)",
    )


class Comparison:
    """Two sets of boots, step by step."""

    def __init__(self, a: list[Boot], b: list[Boot]) -> None:
        self.counts = len(a), len(b)
        self.samples: Samples = sample(a + b)
        parts = self.samples.part(0, len(a)), self.samples.part(len(a), len(a) + len(b))
        self.differences = compare_figures(*parts)

    def too_slow(self, tolerance: float) -> list[Difference]:
        """Steps that are significantly slower, and by more than so many percent."""
        return [
            each
            for each in self.differences
            if each.verdict == "slower" and each.share * 100 > tolerance
        ]

    def print(self, file: TextIO) -> None:
        """A table, and what one must know to read it."""
        right = frozenset({"A MS", "B MS", "DIFF MS", "DIFF", "CHANCE"})
        interval = f"{CONFIDENCE:.0%} INTERVAL"
        headings = ["STEP", "A MS", "B MS", "DIFF MS", "DIFF", interval, "CHANCE", "B IS"]
        table = Table(headings, right)
        for each in self.differences:
            table.add(*_cells(each, self.samples.labels.get(each.key, each.key)))
        table.print(file)
        for note in [*self.samples.notes, *self._caveats()]:
            print(note, file=file)

    def _caveats(self) -> list[str]:
        if min(self.counts) < 2:
            return ["With one boot on a side nobody can say what is chance; compare several."]
        if not has_scipy():
            return [f"{NO_SCIPY}."]
        return [
            f"Medians of {self.counts[0]} and {self.counts[1]} boots. CHANCE: Mann-Whitney U test, "
            f"adjusted for {len(self.differences)} comparisons; below 0.05 B differs."
        ]

    def to_json(self) -> dict[str, Any]:
        """All figures, in nanoseconds."""
        return {
            "boots_a": self.counts[0],
            "boots_b": self.counts[1],
            "notes": self.samples.notes,
            "steps": [_row(each) for each in self.differences],
        }


def _cells(each: Difference, label: str) -> list[str]:
    share = f"{each.share:+.1%}" if each.median_a else "-"
    interval = " to ".join(f"{end / 1e6:+.3f}" for end in each.interval) if each.interval else "-"
    chance = f"{each.chance:.4f}" if each.chance is not None else "-"
    medians = milliseconds(each.median_a), milliseconds(each.median_b)
    return [label, *medians, f"{each.delta / 1e6:+.3f}", share, interval, chance, each.verdict]


def _row(each: Difference) -> dict[str, Any]:
    return {
        "step": each.key,
        "median_a_nsec": each.median_a,
        "median_b_nsec": each.median_b,
        "difference_nsec": each.delta,
        "interval_nsec": each.interval,
        "chance": each.chance,
        "verdict": each.verdict,
    }


def _run(given: argparse.Namespace) -> int:
    output, place = output_of(given), place_of(given)
    comparison = Comparison(find_boots(place, given.a), find_boots(place, given.b))
    if output.is_json:
        output.print_json(comparison.to_json())
    else:
        with output.paged() as file:
            comparison.print(file)
    if given.check and comparison.too_slow(given.tolerance):
        return ExitStatus.EXCEEDED
    return ExitStatus.OK
