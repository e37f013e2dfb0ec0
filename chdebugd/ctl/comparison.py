"""Whether two sets of figures differ, by how much, and how sure that is.

Boot times are not normally distributed, so nothing here assumes it: the Mann-Whitney U test says
whether one set tends to be larger, a bootstrap gives the interval of the difference of medians, and
Holm's method keeps the chance of any false alarm over all steps at ALPHA.
"""

from __future__ import annotations

import statistics
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chdebugd.ctl.errors import CtlError

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

ALPHA = 0.05
CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 1
BUDGET_RUNS_MIN = 5  # 1/2^5 is the first that lies below ALPHA
NO_SCIPY = "SciPy is not installed, so nobody can say what is chance: install python3-scipy"


@dataclass(frozen=True)
class Difference:
    """Of one step: B minus A. Without SciPy, or with one boot each, nobody knows the chance."""

    key: str
    median_a: float
    median_b: float
    interval: tuple[float, float] | None
    """Confidence interval of the difference of medians."""
    chance: float | None
    """The probability of a difference like this where there is none (adjusted by Holm)."""

    @property
    def delta(self) -> float:
        """How much the median grew."""
        return self.median_b - self.median_a

    @property
    def share(self) -> float:
        """How much the median grew, in parts of A's; infinite where A's is 0."""
        return self.delta / self.median_a if self.median_a else float("inf")

    @property
    def is_significant(self) -> bool:
        """Whether it is most likely no chance."""
        return self.chance is not None and self.chance < ALPHA

    @property
    def verdict(self) -> str:
        """slower, faster, same (as far as one can tell), or unknown."""
        if self.chance is None:
            return "unknown"
        if not self.is_significant or not self.delta:
            return "same"
        return "slower" if self.delta > 0 else "faster"


def has_scipy() -> bool:
    """Whether chance can be told at all."""
    try:
        import scipy.stats  # noqa: F401
    except ImportError:
        return False
    return True


def compare(a: dict[str, list[int]], b: dict[str, list[int]]) -> list[Difference]:
    """The differences of all steps that both have, in A's order."""
    keys = [key for key in a if key in b]
    chances: list[float | None] = [None] * len(keys)
    if has_scipy() and all(len(a[key]) > 1 and len(b[key]) > 1 for key in keys):
        chances = [*_holm([_chance(a[key], b[key]) for key in keys])]
    return [_difference(key, a[key], b[key], chances[at]) for at, key in enumerate(keys)]


def _difference(key: str, a: list[int], b: list[int], chance: float | None) -> Difference:
    interval = _interval(a, b) if chance is not None else None
    return Difference(key, statistics.median(a), statistics.median(b), interval, chance)


def _chance(a: list[int], b: list[int]) -> float:
    from scipy.stats import mannwhitneyu

    if min(a + b) == max(a + b):
        return 1.0  # the test has nothing to rank
    return float(mannwhitneyu(a, b, alternative="two-sided").pvalue)


def _holm(chances: list[float]) -> list[float]:
    """Holm's step-down adjustment."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    adjusted, highest = list(chances), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, chances[at] * (len(chances) - rank)))
        adjusted[at] = highest
    return adjusted


def _interval(a: list[int], b: list[int]) -> tuple[float, float]:
    import numpy
    from scipy.stats import bootstrap

    def shift(left: Array, right: Array, axis: int) -> Array:
        found: Array = numpy.median(right, axis=axis) - numpy.median(left, axis=axis)
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # figures that are all the same have an interval, too
        found = bootstrap(
            (a, b),
            shift,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=True,
            random_state=SEED,
        ).confidence_interval
    return float(found.low), float(found.high)


def exceeds(figures: list[int], budget: float) -> tuple[bool, float]:
    """Whether the median lies above the budget most likely, and the chance (sign test).

    Raises CtlError where that cannot be told.
    """
    if len(figures) < BUDGET_RUNS_MIN:
        raise CtlError(
            f"{len(figures)} runs cannot show that a budget is exceeded; give --runs "
            f"{BUDGET_RUNS_MIN} or more"
        )
    try:
        from scipy.stats import binomtest
    except ImportError:
        raise CtlError(NO_SCIPY) from None
    over = sum(figure > budget for figure in figures)
    unequal = sum(figure != budget for figure in figures)
    if not unequal:
        return False, 1.0
    chance = float(binomtest(over, unequal, 0.5, alternative="greater").pvalue)
    return chance < ALPHA, chance
