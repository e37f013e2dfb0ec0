"""Figures: ours, the peer's, their ratio and the target; as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of the table. Without a target it is only told."""

    row: str
    what: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None
    spread: str = ""
    """Lowest and highest over the repetitions: of the ratio where there is a peer."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def compare(
    row: str,
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    peer: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Ours beside the peer's, pair by pair of repetitions that followed each other."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    target, reached = _target(ratio, at_most, at_least, " x")
    spread = f"{min(ratios):.2f}..{max(ratios):.2f} over {len(ratios)}"
    return Figure(
        row,
        what,
        statistics.median(ours),
        unit,
        peer,
        statistics.median(theirs),
        ratio,
        target,
        reached,
        spread,
    )


def measure(
    row: str,
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """A figure with a target of its own, or none; the median of the repetitions."""
    value = statistics.median(values)
    target, reached = _target(value, at_most, at_least, f" {unit}")
    spread = f"{min(values):.3g}..{max(values):.3g} over {len(values)}"
    return Figure(row, what, value, unit, target=target, reached=reached, spread=spread)


def _target(
    value: float, at_most: float | None, at_least: float | None, unit: str
) -> tuple[str, bool | None]:
    if at_most is not None:
        return f"<= {at_most:g}{unit}", value <= at_most
    if at_least is not None:
        return f">= {at_least:g}{unit}", value >= at_least
    return "", None


def write_json(path: Path, figures: list[Figure]) -> None:
    """All figures, and on what they were measured."""
    host = {
        "kernel": platform.release(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": host, "figures": [asdict(each) for each in figures]}))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""


COLUMNS = ("row", "what", "ours", "peer", "theirs", "ratio", "target", "", "spread")
WIDTHS = (9, 50, 18, 26, 10, 7, 20, 3, 0)


def table_line(figure: Figure) -> str:
    """One line, in columns."""
    reached = {None: "", True: "ok", False: "NO"}[figure.reached]
    theirs = "" if figure.theirs is None else f"{figure.theirs:.4g}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
    ours = f"{figure.ours:.4g} {figure.unit}"
    cells = (figure.row, figure.what, ours, figure.peer, theirs, ratio, figure.target, reached)
    return _columns((*cells, figure.spread))


def table_head() -> str:
    """The names of the columns."""
    return _columns(COLUMNS)


def _columns(cells: Sequence[str]) -> str:
    return " ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
