"""`plot`: one boot or several under each other, as SVG or as a page with zoom and hover."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from string import Template
from xml.sax.saxutils import escape

from chdebugd.ctl.arguments import Verbs, place_of
from chdebugd.ctl.boot_finder import find_boots
from chdebugd.ctl.boots import Boot
from chdebugd.ctl.errors import UsageError
from chdebugd.ctl.events import BOOT_HELP
from chdebugd.ctl.output import write_result
from chdebugd.ctl.plot_drawing import PLOT_END, PLOT_X, WIDTH, draw, printable
from chdebugd.ctl.plot_rows import rows_of
from chdebugd.ctl.steps import START
from chdebugd.ctl.times import ORIGIN_HELP

BOOTS_MAX = 50  # in one drawing


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("plot", "draw boots as SVG, or as a page to zoom into", _run)
    parser.add_argument("boot", metavar="BOOT", nargs="+", help=BOOT_HELP)
    parser.add_argument("--html", action="store_true", help="a single page with zoom and hover")
    parser.add_argument("--origin", metavar="POINT", default=START, help=ORIGIN_HELP)
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of stdout")


def _run(given: argparse.Namespace) -> int:
    if given.output is None and sys.stdout.isatty():
        raise UsageError("A drawing is of no use on a terminal; give -o FILE, or redirect")
    place = place_of(given)
    boots = [boot for spec in given.boot for boot in find_boots(place, spec)]
    if len(boots) > BOOTS_MAX:
        raise UsageError(f"{len(boots)} boots are too many for one drawing; name {BOOTS_MAX}")
    text = page(boots, given.origin) if given.html else svg(boots, given.origin)
    write_result(text, given.output)
    return 0


def svg(boots: list[Boot], origin: str = START) -> str:
    """The drawing; raises UsageError where a boot has no such origin."""
    body, height, nsec = draw([rows_of(boot, origin) for boot in boots])
    return _template("plot.svg").substitute(
        title=escape(_title(boots)),
        width=WIDTH,
        height=round(height),
        nsec=nsec,
        plot_x=PLOT_X,
        plot_end=PLOT_END,
        body=body,
    )


def page(boots: list[Boot], origin: str = START) -> str:
    """A page that holds the drawing and needs nothing else."""
    return _template("plot.html").substitute(title=escape(_title(boots)), svg=svg(boots, origin))


def _title(boots: list[Boot]) -> str:
    return printable(f"Boot of {', '.join(dict.fromkeys(boot.vm for boot in boots))}")


def _template(name: str) -> Template:
    return Template((files(__package__) / name).read_text(encoding="utf-8"))
