"""The same steps over several boots: what is measured each time, and what is not and why.

Only points that every boot has, equally often and in the same order, bound a step. All others are
told: a step that ends now here and now there must not be averaged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chdebugd.ctl.boots import Boot
from chdebugd.ctl.errors import UsageError
from chdebugd.ctl.steps import REQUEST, Point, find_point, points_of, steps_of
from chdebugd.trace.codemap import CodeMap, CodeMapError

TOTAL = "total"
REPEATS_MAX = 8  # a mark that comes more often in each boot is a loop, not a step
BETWEEN = ".."


@dataclass
class Samples:
    """Nanoseconds by step; each list has one figure a boot, in the boots' order."""

    boots: list[Boot]
    steps: dict[str, list[int]] = field(default_factory=dict)
    """From each common point to the next, in their order."""
    spans: dict[str, list[int]] = field(default_factory=dict)
    """The total, the stages, and the spans of the code map."""
    labels: dict[str, str] = field(default_factory=dict)
    """For people: a step's key with the names of its marks."""
    notes: list[str] = field(default_factory=list)
    """What is left out, a sentence each."""

    @property
    def all(self) -> dict[str, list[int]]:
        """Steps and spans."""
        return self.steps | self.spans

    def part(self, begin: int, end: int) -> dict[str, list[int]]:
        """Steps and spans of some of the boots."""
        return {key: values[begin:end] for key, values in self.all.items()}

    def named(self, wanted: str) -> list[int]:
        """The figures of a step or span, or FROM..TO of any two points; raises UsageError."""
        if wanted in self.all:
            return self.all[wanted]
        by_name = {key.lower(): values for key, values in self.spans.items()}
        if wanted.lower() in by_name:
            return by_name[wanted.lower()]
        begin, between, end = wanted.partition(BETWEEN)
        if not between:
            known = ", ".join([*self.spans, *self.steps][:12])
            raise UsageError(f"There is no step '{wanted}'; give FROM..TO, or one of {known}")
        return [_between(points_of(boot), begin, end) for boot in self.boots]


def _between(points: list[Point], begin: str, end: str) -> int:
    return find_point(points, end).nsec - find_point(points, begin).nsec


def sample(boots: list[Boot]) -> Samples:
    """Measure the steps that all boots have in common."""
    samples = Samples(boots)
    all_points = [[p for p in points_of(boot) if p.key != REQUEST] for boot in boots]
    dropped = _uneven(boots, samples.notes)
    common = set.intersection(*({p.key for p in points} for points in all_points)) - dropped
    kept = [[p for p in points if p.key in common] for points in all_points]
    kept = _in_one_order(kept, samples.notes)
    for points in kept:
        for step in steps_of(points):
            samples.steps.setdefault(step.key, []).append(step.nsec)
            samples.labels[step.key] = f"{step.begin.label} {BETWEEN} {step.end.label}"
    samples.spans[TOTAL] = [points[-1].nsec for points in kept]
    samples.labels[TOTAL] = f"{TOTAL}, to {kept[0][-1].label}"
    _add_stages(samples, kept)
    _add_map_spans(samples, kept)
    return samples


def _uneven(boots: list[Boot], notes: list[str]) -> set[str]:
    """The points that not every boot has equally often, or that are a loop's; tells each."""
    counts = [Counter(mark.code for mark in boot.marks) for boot in boots]
    dropped: set[str] = set()
    for code in sorted(set().union(*counts)):
        each = [count[code] for count in counts]
        most = max(each)
        label = f"{code:#x}"
        if len(set(each)) == 1 and most == 1:
            continue
        if len(set(each)) == 1 and most <= REPEATS_MAX:
            notes.append(f"{label} comes {most} times in each boot; its marks are kept apart.")
            continue
        dropped |= {label} | {f"{label}#{number}" for number in range(2, most + 1)}
        notes.append(f"{label} is left out: {_how_uneven(each)}.")
    dropped |= _uneven_phases(boots, notes)
    return dropped


def _how_uneven(each: list[int]) -> str:
    missing = each.count(0)
    if missing and max(each) == 1:
        return f"it is missing in {missing} of {len(each)} boots"
    if missing:
        return f"it is missing in {missing} of {len(each)} boots and comes up to {max(each)} times"
    if len(set(each)) == 1:
        return f"it comes {each[0]} times in each boot, as a loop does"
    return f"it comes {min(each)} to {max(each)} times a boot"


def _uneven_phases(boots: list[Boot], notes: list[str]) -> set[str]:
    counts = Counter(name for boot in boots for name in {phase.name for phase in boot.phases})
    uneven = {name for name, count in counts.items() if count != len(boots)}
    notes += [
        f"{name} is left out: it is missing in {len(boots) - counts[name]} of {len(boots)} boots."
        for name in sorted(uneven)
    ]
    return uneven


def _in_one_order(all_points: list[list[Point]], notes: list[str]) -> list[list[Point]]:
    """Without the points that come now before and now after another one; tells each."""
    while True:
        columns = list(zip(*all_points, strict=True))
        swapped = next(
            ({p.key for p in column} for column in columns if len({p.key for p in column}) > 1),
            None,
        )
        if swapped is None:
            return all_points
        names = " and ".join(sorted(swapped))
        notes.append(f"{names} are left out: their order differs from boot to boot.")
        all_points = [[p for p in points if p.key not in swapped] for points in all_points]


def _add_stages(samples: Samples, all_points: list[list[Point]]) -> None:
    """The time of each stage that all boots have."""
    times: list[Counter[str]] = []
    for points in all_points:
        times.append(Counter())
        for step in steps_of(points):
            times[-1][step.stage] += step.nsec
    for stage in times[0]:
        if all(stage in each for each in times):
            samples.spans[stage] = [each[stage] for each in times]


def _add_map_spans(samples: Samples, all_points: list[list[Point]]) -> None:
    """The spans of the boots' code map, where both ends are common points."""
    maps = {boot.code_map for boot in samples.boots}
    codes = load_spans(maps.pop()) if len(maps) == 1 else None
    for span in codes.spans if codes else ():
        begin, end = f"{span.start:#x}", f"{span.end:#x}"
        times = [{point.key: point.nsec for point in points} for points in all_points]
        if all(begin in each and end in each for each in times):
            taken = {known.lower() for known in samples.spans}
            name = f"{span.name} (span)" if span.name.lower() in taken else span.name
            samples.spans[name] = [each[end] - each[begin] for each in times]


def load_spans(name: str) -> CodeMap | None:
    """The code map of a boot, None where it is not here or no good: then there are no spans."""
    try:
        return CodeMap.load(name) if name else None
    except CodeMapError:
        return None
