"""What a plot shows of one boot: a row a step, in the order of time, and spans of the code map."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from chdebugd.ctl.boots import HOST, Boot
from chdebugd.ctl.output import duration
from chdebugd.ctl.samples import load_spans
from chdebugd.ctl.steps import BEFORE_MARKS, Point, Step, steps_of
from chdebugd.ctl.times import points_from

ROWS_MAX = 80  # longer boots show their longest steps, and between them what is folded


@dataclass(frozen=True)
class Row:
    """A bar with a label. Times in nanoseconds since the origin."""

    label: str
    stage: str
    begin: int
    end: int
    about: str
    """All of it in words, for whoever points at it."""

    @property
    def nsec(self) -> int:
        """How long it took."""
        return self.end - self.begin


@dataclass(frozen=True)
class BootRows:
    """One boot to draw."""

    title: str
    subtitle: str
    stages: list[Row]
    """What a stage took at a stretch."""
    spans: list[Row]
    steps: list[Row]

    @property
    def end(self) -> int:
        """The time of the last thing in it."""
        return max((row.end for row in self.steps), default=0)


def rows_of(boot: Boot, origin: str) -> BootRows:
    """The rows of a boot; raises UsageError where it has no such origin."""
    points = points_from(boot, origin)
    last = points[-1]
    title = f"{boot.vm}: {duration(last.nsec)} from {origin} to {last.label}"
    return BootRows(
        title, _subtitle(boot), stage_rows(points), span_rows(boot, points), _steps(points)
    )


def _subtitle(boot: Boot) -> str:
    parts = [f"boot {boot.boot_id}"]
    if boot.realtime_nsec:
        began = datetime.fromtimestamp(boot.realtime_nsec / 1e9, UTC)
        parts.append(f"{began:%Y-%m-%d %H:%M:%S} UTC")
    if boot.cpus:
        parts.append(f"{boot.cpus} vCPU, {boot.memory >> 20} MiB")
    if boot.code_map:
        parts.append(f"code map {boot.code_map}")
    parts.append(f"{len(boot.marks)} marks")
    if boot.result:
        parts.append(boot.result)
    return " · ".join(parts)


def _row(label: str, stage: str, begin: Point, end: Point) -> Row:
    took = f"{duration(end.nsec - begin.nsec)}, from {duration(begin.nsec)} to {duration(end.nsec)}"
    ends = f"{begin.label} to {end.label}" if begin != end else begin.label
    return Row(label, stage, begin.nsec, end.nsec, f"{stage}: {ends}\n{took}")


def stage_rows(points: list[Point]) -> list[Row]:
    """What each stage took at a stretch."""
    rows: list[Row] = []
    begin = points[0]
    for before in points[:-1]:
        if before.stage != begin.stage:
            rows.append(_row(begin.stage, begin.stage, begin, before))
            begin = before
    if points[-1] != begin:
        rows.append(_row(begin.stage, begin.stage, begin, points[-1]))
    return rows


def span_rows(boot: Boot, points: list[Point]) -> list[Row]:
    """The spans of the boot's code map, where both ends are there."""
    codes = load_spans(boot.code_map)
    at = {point.key: point for point in points}
    rows = []
    for span in codes.spans if codes else ():
        begin, end = at.get(f"{span.start:#x}"), at.get(f"{span.end:#x}")
        if begin and end and begin.nsec < end.nsec:
            rows.append(_row(span.name, begin.stage, begin, end))
    return rows


def _steps(points: list[Point]) -> list[Row]:
    """A row a step, and one for the last mark, which begins nothing."""
    steps = steps_of(points)
    longest = sorted(steps, key=lambda step: -step.nsec)[:ROWS_MAX]
    kept = {step.key for step in longest}
    rows: list[Row] = []
    folded: list[Step] = []
    for step in steps:
        if step.key in kept:
            rows += _fold(folded)
            folded = []
            rows.append(_row(_label(step), step.stage, step.begin, step.end))
        else:
            folded.append(step)
    rows += _fold(folded)
    last = points[-1]
    return [*rows, _row(last.label, last.stage, last, last)]


def _label(step: Step) -> str:
    """A phase of the host is named by its end, a mark by its begin."""
    if step.stage == HOST:
        return step.end.label
    return "until the first mark" if step.stage == BEFORE_MARKS else step.begin.label


def _fold(steps: list[Step]) -> list[Row]:
    if not steps:
        return []
    first, last = steps[0], steps[-1]
    stages = {step.stage for step in steps}
    stage = first.stage if len(stages) == 1 else "several"
    return [_row(f"{len(steps)} short steps", stage, first.begin, last.end)]
