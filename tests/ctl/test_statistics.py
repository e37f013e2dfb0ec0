"""Steps, measures and comparisons, against values worked out by hand and against SciPy."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from chdebugd.ctl.comparison import compare, exceeds, has_scipy
from chdebugd.ctl.errors import CtlError, UsageError
from chdebugd.ctl.measures import measure
from chdebugd.ctl.samples import sample
from chdebugd.ctl.saved_runs import document, load_boots
from chdebugd.ctl.steps import find_point, points_of, since, stage_times, steps_of
from tests.ctl.boots import MS, boot

FIGURES = st.lists(st.integers(0, 10**12), min_size=2, max_size=40)


# Points and steps


def test_a_boot_is_points_on_one_clock() -> None:
    points = points_of(boot((0x00, 5), (0x40, 9.5), (0x40, 11), requested_nsec=-20 * MS))

    assert [(p.key, p.nsec / MS, p.stage) for p in points] == [
        ("request", -20, "Host"),
        ("start", 0, "Host"),
        ("kvm-created", 1, "Host"),
        ("memory-mapped", 2, "Host"),
        ("image-loaded", 3, "Host"),
        ("first-entry", 4, "Guest"),
        ("0x0", 5, "Firmware"),
        ("0x40", 9.5, "Kernel"),
        ("0x40#2", 11, "Kernel"),
    ]


@pytest.mark.parametrize(
    ("origin", "first", "total"),
    [
        ("request", "request", 31),
        ("start", "start", 11),
        ("first-entry", "first-entry", 7),
        ("0x40", "0x40", 1.5),
        ("64", "0x40", 1.5),
        ("0x40#2", "0x40#2", 0),
    ],
)
def test_time_counts_from_the_origin(origin: str, first: str, total: float) -> None:
    points = points_of(boot((0x00, 5), (0x40, 9.5), (0x40, 11), requested_nsec=-20 * MS))

    moved = since(points, find_point(points, origin))

    assert (moved[0].key, moved[0].nsec) == (first, 0)
    assert moved[-1].nsec == total * MS


def test_a_point_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no point '0x77'; it has start, kvm-created"):
        find_point(points_of(boot((0x00, 5))), "0x77")


@given(st.lists(st.tuples(st.integers(0, 255), st.floats(4, 1e6)), min_size=1, max_size=60))
def test_steps_and_stages_add_up_to_the_whole(marks: list[tuple[int, float]]) -> None:
    points = points_of(boot(*sorted(marks, key=lambda mark: mark[1])))

    whole = points[-1].nsec - points[0].nsec
    assert sum(step.nsec for step in steps_of(points)) == whole
    assert sum(stage_times(points).values()) == whole
    assert len({point.key for point in points}) == len(points)


# Samples


def test_the_steps_of_equal_boots_are_sampled() -> None:
    samples = sample([boot((0x40, 10 + at), (0x41, 20)) for at in range(3)])

    assert samples.steps["0x40..0x41"] == [10 * MS, 9 * MS, 8 * MS]
    assert samples.spans["total"] == [20 * MS] * 3
    assert samples.spans["Host"] == [4 * MS] * 3
    assert samples.spans["Kernel"] == [10 * MS, 9 * MS, 8 * MS]
    assert samples.notes == []


def test_a_mark_that_is_missing_somewhere_is_told_and_bounds_no_step() -> None:
    samples = sample([boot((1, 5), (2, 6), (3, 9)), boot((1, 5), (3, 9)), boot((1, 5), (3, 9))])

    assert samples.steps["0x1..0x3"] == [4 * MS] * 3
    assert not any("0x2" in key for key in samples.steps)
    assert samples.notes == ["0x2 is left out: it is missing in 2 of 3 boots."]


def test_a_mark_that_comes_now_once_and_now_twice_is_told_and_bounds_no_step() -> None:
    samples = sample([boot((1, 5), (2, 6), (2, 7)), boot((1, 5), (2, 6))])

    assert list(samples.steps)[-1] == "first-entry..0x1"
    assert samples.notes == ["0x2 is left out: it comes 1 to 2 times a boot."]


def test_a_mark_that_always_comes_twice_makes_two_points() -> None:
    samples = sample([boot((1, 5), (1, 7)), boot((1, 5), (1, 8))])

    assert samples.steps["0x1..0x1#2"] == [2 * MS, 3 * MS]
    assert samples.notes == ["0x1 comes 2 times in each boot; its marks are kept apart."]


def test_a_loop_is_told_and_bounds_no_step() -> None:
    samples = sample([boot(*((0x80, 5 + at) for at in range(9)), (0x81, 20))] * 2)

    assert samples.steps["first-entry..0x81"] == [16 * MS] * 2
    assert samples.notes == ["0x80 is left out: it comes 9 times in each boot, as a loop does."]


def test_marks_in_another_order_are_told_and_bound_no_step() -> None:
    samples = sample([boot((1, 5), (2, 6), (3, 9)), boot((2, 5), (1, 6), (3, 9))])

    assert samples.steps["first-entry..0x3"] == [5 * MS] * 2
    assert samples.notes == ["0x1 and 0x2 are left out: their order differs from boot to boot."]


def test_the_spans_of_the_code_map_are_sampled() -> None:
    boots = [boot((0x40, 10), (0x41, 30), code_map="cloud-hypervisor")] * 2

    samples = sample(boots)

    assert samples.spans["kernel (span)"] == [20 * MS] * 2
    assert samples.named("0x40..0x41") == [20 * MS] * 2
    assert samples.named("start..0x41") == [30 * MS] * 2
    assert samples.named("kernel") == samples.spans["Kernel"]
    with pytest.raises(UsageError, match="There is no step 'nix'"):
        samples.named("nix")


@given(st.lists(st.permutations([1, 2, 3, 4, 5, 6]), min_size=2, max_size=5))
def test_whatever_the_order_each_step_has_a_figure_a_boot(orders: list[list[int]]) -> None:
    boots = [boot(*((code, 5 + at) for at, code in enumerate(order))) for order in orders]

    samples = sample(boots)

    assert {len(figures) for figures in samples.all.values()} == {len(boots)}
    assert all(figure >= 0 for figures in samples.all.values() for figure in figures)


# Measures


def test_measures_of_figures_worked_out_by_hand() -> None:
    found = measure([1, 2, 3, 4, 100])

    assert (found.count, found.median, found.mad, found.low, found.high) == (5, 3, 1, 1, 100)
    assert found.far_out == 1
    assert found.percentiles[25] == 2
    assert found.percentiles[75] == 4


def test_the_smallest_step_is_the_smallest_difference_and_not_a_difference_of_smallest() -> None:
    # Cumulated minima are 10 and 21 here, and their difference 11 is a step that never was.
    samples = sample([boot((1, 10), (2, 30)), boot((1, 15), (2, 21)), boot((1, 12), (2, 25))])

    found = measure(samples.steps["0x1..0x2"])

    assert (found.low, found.median, found.high) == (6 * MS, 13 * MS, 20 * MS)


@given(FIGURES)
def test_measures_are_those_of_numpy_and_scipy(figures: list[int]) -> None:
    found = measure(figures)

    assert found.median == pytest.approx(numpy.median(figures))
    assert found.mad == pytest.approx(scipy.stats.median_abs_deviation(figures))
    for percent, value in found.percentiles.items():
        assert value == pytest.approx(numpy.percentile(figures, percent))


# Comparisons


def test_the_chance_is_scipys_and_adjusted_by_holm() -> None:
    a = {"x": [1, 2, 3, 4, 5, 6, 7, 8], "y": [10, 11, 12, 13, 14, 15, 16, 17]}
    b = {"x": [11, 12, 13, 14, 15, 16, 17, 18], "y": [12, 10, 14, 11, 17, 13, 15, 16]}

    x, y = compare(a, b)

    assert x.chance == pytest.approx(2 * scipy.stats.mannwhitneyu(a["x"], b["x"]).pvalue)
    assert y.chance == pytest.approx(scipy.stats.mannwhitneyu(a["y"], b["y"]).pvalue)
    assert (x.verdict, x.delta, x.share) == ("slower", 10, 10 / 4.5)
    assert y.verdict == "same"
    assert x.interval is not None
    assert x.interval[0] > 0


def test_figures_that_do_not_vary_are_the_same() -> None:
    [found] = compare({"x": [5] * 6}, {"x": [5] * 6})

    assert (found.chance, found.interval, found.verdict) == (1, (0, 0), "same")


def test_a_single_boot_tells_nothing_of_chance() -> None:
    [found] = compare({"x": [5]}, {"x": [9]})

    assert (found.delta, found.chance, found.interval, found.verdict) == (4, None, None, "unknown")


def test_equal_hosts_are_seldom_called_different() -> None:
    draw = random.Random(1)
    alarms = 0
    for _ in range(100):
        steps = [f"step{at}" for at in range(5)]
        a, b = ({key: [draw.randrange(10**6) for _ in range(10)] for key in steps} for _ in "ab")
        alarms += any(each.is_significant for each in compare(a, b))

    assert alarms <= 10  # ALPHA promises 5 of 100; more than 10 has a chance of 1 %


@given(FIGURES, FIGURES)
def test_the_interval_holds_for_any_figures(a: list[int], b: list[int]) -> None:
    [found] = compare({"x": a}, {"x": b})

    assert found.interval is not None
    low, high = found.interval
    assert min(b) - max(a) <= low <= high <= max(b) - min(a)
    assert found.chance is not None
    assert 0 <= found.chance <= 1


# Budgets


@pytest.mark.parametrize(
    ("figures", "over", "chance"),
    [
        ([11] * 5, True, 1 / 32),
        ([11] * 4 + [9], False, 6 / 32),
        ([9] * 5, False, 1),
        ([10] * 5, False, 1),
        ([11] * 8 + [9] * 2, False, 56 / 1024),
        ([11] * 9 + [9], True, 11 / 1024),
    ],
)
def test_a_budget_is_exceeded_when_that_is_no_chance(
    figures: list[int], over: bool, chance: float
) -> None:
    is_over, found = exceeds(figures, 10)

    assert is_over == over
    assert found == pytest.approx(chance)


def test_a_budget_needs_enough_runs() -> None:
    with pytest.raises(CtlError, match="give --runs 5 or more"):
        exceeds([11] * 4, 10)


def test_without_scipy_differences_are_told_and_chance_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)  # type: ignore[misc]

    [found] = compare({"x": [1, 2, 3]}, {"x": [4, 5, 6]})

    assert not has_scipy()
    assert (found.delta, found.chance, found.verdict) == (3, None, "unknown")
    with pytest.raises(CtlError, match="install python3-scipy"):
        exceeds([11] * 5, 10)


# Saved runs


def test_boots_are_saved_and_loaded_whole(tmp_path: Path) -> None:
    boots = [boot((0x40, 10), (0x41, 30), code_map="demo", requested_nsec=-5, result="shutdown")]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document(boots, host={"cpu": "x"})))

    assert load_boots(path) == boots


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a saved run"),
        ('{"format": "chdebugd-runs", "version": 99}', "has version 99"),
        ('{"format": "chdebugd-runs", "version": 1, "boots": []}', "has no boots"),
        ('{"format": "chdebugd-runs", "version": 1, "boots": [{"vm": "a"}]}', "is damaged"),
        ('{"format": "chdebugd-runs", "version": 1}', "is damaged"),
    ],
)
def test_a_file_that_is_no_saved_run_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)

    with pytest.raises(CtlError, match=sentence):
        load_boots(path)
