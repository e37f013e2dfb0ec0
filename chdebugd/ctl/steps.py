"""Points of a boot and the steps between them, on one clock.

A point is the start, a host phase that is done, or a mark. A mark that comes several times is the
points `0x40`, `0x40#2`, `0x40#3` and so on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

from chdebugd.ctl.boots import FIRST_ENTRY, HOST, Boot
from chdebugd.ctl.errors import UsageError

REQUEST, START = "request", "start"
BEFORE_MARKS = "Guest"
"""The stage from the first entry to the first mark: nobody said whose time that is."""


@dataclass(frozen=True)
class Point:
    """Something that happened at a time, in nanoseconds since the origin."""

    key: str
    """Unique in its boot and the same in each boot: start, first-entry, 0x40, 0x40#2."""
    name: str
    """For people; empty where the key says it all."""
    stage: str
    """Whose time it is from here to the next point."""
    nsec: int

    @property
    def label(self) -> str:
        """Key and name."""
        return f"{self.key} {self.name}".rstrip()


@dataclass(frozen=True)
class Step:
    """The time from one point to the next."""

    begin: Point
    end: Point

    @property
    def nsec(self) -> int:
        """How long it took."""
        return self.end.nsec - self.begin.nsec

    @property
    def key(self) -> str:
        """`start..first-entry`."""
        return f"{self.begin.key}..{self.end.key}"

    @property
    def stage(self) -> str:
        """Whose time it was."""
        return self.begin.stage


def points_of(boot: Boot) -> list[Point]:
    """All points of a boot in the order of their times; the start is at 0."""
    points = [Point(START, "", HOST, 0)]
    if boot.requested_nsec is not None:
        points.insert(0, Point(REQUEST, "", HOST, boot.requested_nsec))
    for phase in boot.phases:
        stage = BEFORE_MARKS if phase.name == FIRST_ENTRY else HOST
        points.append(Point(phase.name, "", stage, phase.elapsed_nsec))
    times: Counter[int] = Counter()
    for mark in boot.marks:
        times[mark.code] += 1
        count = f"#{times[mark.code]}" if times[mark.code] > 1 else ""
        points.append(Point(f"{mark.code:#x}{count}", mark.name, mark.stage, mark.elapsed_nsec))
    return sorted(points, key=lambda point: point.nsec)


def steps_of(points: list[Point]) -> list[Step]:
    """What lies between neighbours."""
    return [Step(begin, end) for begin, end in pairwise(points)]


def find_point(points: list[Point], wanted: str) -> Point:
    """The first point that has this key, code or name; raises UsageError."""
    text = wanted.lower()
    if text.startswith("0x") or text.isdecimal():
        text = _code_key(text)
    for point in points:
        if text in (point.key, point.name.lower()):
            return point
    known = ", ".join(point.label for point in points[:12]) or "none"
    raise UsageError(f"The boot has no point '{wanted}'; it has {known}")


def _code_key(text: str) -> str:
    code, hash_sign, count = text.partition("#")
    try:
        return f"{int(code, 0):#x}{hash_sign}{count}"
    except ValueError:
        return text


def since(points: list[Point], origin: Point) -> list[Point]:
    """The points from the origin on, with the origin at 0."""
    moved = [replace(point, nsec=point.nsec - origin.nsec) for point in points]
    return [point for point in moved if point.nsec >= 0]


def stage_times(points: list[Point]) -> dict[str, int]:
    """Nanoseconds by stage, in the order the stages begin."""
    times: dict[str, int] = {}
    for step in steps_of(points):
        times[step.stage] = times.get(step.stage, 0) + step.nsec
    return times
