"""What the figures of one step say: the middle, the spread, the ends."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

PERCENTILES = (5, 25, 75, 95, 99)
FAR_OUT = 10.0  # median absolute deviations


@dataclass(frozen=True)
class Measures:
    """In the unit of the figures."""

    count: int
    median: float
    mad: float
    """Median absolute deviation from the median, not scaled."""
    low: float
    high: float
    percentiles: dict[int, float]
    """By linear interpolation between neighbours, as NumPy does by default."""
    far_out: int
    """Figures that lie more than FAR_OUT deviations from the median."""


def measure(figures: list[int]) -> Measures:
    """The measures of at least one figure."""
    median = statistics.median(figures)
    distances = [abs(figure - median) for figure in figures]
    mad = statistics.median(distances)
    far_out = sum(distance > FAR_OUT * mad for distance in distances) if mad else 0
    percentiles = {percent: percentile(figures, percent) for percent in PERCENTILES}
    low, high = float(min(figures)), float(max(figures))
    return Measures(len(figures), median, mad, low, high, percentiles, far_out)


def percentile(figures: list[int], percent: int) -> float:
    """The percentile of at least one figure."""
    if len(figures) == 1:
        return float(figures[0])
    return statistics.quantiles(figures, n=100, method="inclusive")[percent - 1]
