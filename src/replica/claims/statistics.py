"""Intervals and aggregates over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtrit

#: How a claim's seeds become one number.
AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: math.fsum(values) / len(values),
    "median": lambda values: float(np.median(np.asarray(values, dtype=float))),
    "max": lambda values: float(max(values)),
}


def aggregate(values: Sequence[float], how: str = "mean") -> float:
    """Return mean, median or max of the values of several seeds; ValueError when there are none."""
    if not values:
        raise ValueError("no values to aggregate")
    return AGGREGATES[how](values)


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the two-sided Student interval of the mean, or None below two values.

    For paired effects give the differences per seed: mean ± t(level, n - 1) · s / √n, with s the sample standard deviation.
    """
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * deviation / math.sqrt(count)
    return mean - half, mean + half


def bootstrap_interval(
    values: Sequence[float], how: str = "mean", level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of an aggregate over seeds, or None below two values; same every time."""
    if len(values) < 2:
        return None
    data = np.asarray(values, dtype=float)
    drawn = data[np.random.default_rng(seed).integers(0, len(data), size=(resamples, len(data)))]
    reduce = {"mean": np.mean, "median": np.median, "max": np.max}[how]
    low, high = np.quantile(reduce(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval(values: Sequence[float], how: str = "mean", level: float = 0.95) -> tuple[float, float] | None:
    """Return the interval that belongs to an aggregate: Student's for the mean, the bootstrap's for median and max."""
    return t_interval(values, level) if how == "mean" else bootstrap_interval(values, how, level)
