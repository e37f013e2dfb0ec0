"""`export`: boots for other programs: Perfetto, an OpenTelemetry collector, or a saved run."""

from __future__ import annotations

import argparse
import json
import socket
from typing import Any

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.boot_finder import find_boots
from chdebugd.ctl.boots import Boot
from chdebugd.ctl.chrome_trace import chrome_trace
from chdebugd.ctl.events import BOOT_HELP
from chdebugd.ctl.host_facts import host_facts
from chdebugd.ctl.otlp import otlp
from chdebugd.ctl.output import write_result
from chdebugd.ctl.place import Place
from chdebugd.ctl.saved_runs import document

FORMATS = ("chrome", "otlp", "runs")


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("export", "write boots for Perfetto, OpenTelemetry, or as a saved run", _run)
    parser.add_argument("boot", metavar="BOOT", nargs="+", help=BOOT_HELP)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="chrome",
        help="chrome: opens in Perfetto (default); otlp: OTLP/JSON spans; runs: for compare",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of stdout")


def _run(given: argparse.Namespace) -> int:
    place = place_of(given)
    boots = [boot for spec in given.boot for boot in find_boots(place, spec)]
    indent = 2 if output_of(given).json == "pretty" else None
    text = json.dumps(_document(given.format, boots, place), indent=indent) + "\n"
    write_result(text, given.output)
    return 0


def _document(form: str, boots: list[Boot], place: Place) -> dict[str, Any]:
    if form == "chrome":
        return chrome_trace(boots)
    if form == "otlp":
        host = (place.host or place.container or socket.gethostname()).rpartition("@")[2]
        return otlp(boots, host)
    return document(boots, host=host_facts(place))
