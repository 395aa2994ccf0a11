"""Intervals for shares and their differences that carry the sampling and the privacy noise together."""

from __future__ import annotations

import math
from statistics import NormalDist

from common.metrics.figure import Figure

CONFIDENCE = 0.95
Z95 = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def z_of(comparisons: int) -> float:
    """The normal quantile whose two-sided intervals hold together over so many comparisons (Bonferroni)."""
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * max(comparisons, 1)))


def share(inside: float, outside: float, *, inside_var: float, outside_var: float, z: float) -> Figure:
    """Estimate inside / (inside + outside) from two noised counts.

    The score interval: all shares p for which inside * (1 - p) - outside * p is within z standard deviations of zero,
    whose variance is n p (1 - p) from sampling plus (1 - p)^2 and p^2 times the two counts' noise variances.

    Args:
        inside: noised count; may be negative.
        outside: noised count of the rest.
        inside_var: variance of the noise in `inside`.
        outside_var: variance of the noise in `outside`; independent.
        z: normal quantile of the wanted confidence.

    Guarantees:
        noise off: Wilson's interval.
    Source: Wilson 1927; the noise term as in Fieller 1954. A true count is never negative: a negative one is read as 0.
    """
    a, b = max(inside, 0.0), max(outside, 0.0)
    n = a + b
    if n <= 0:
        return Figure(None, reason="no subjects in this cell, as far as the noise lets us see")
    square = n**2 + z**2 * (n - inside_var - outside_var)
    linear = -2 * a * n - z**2 * (n - 2 * inside_var)
    constant = a**2 - z**2 * inside_var
    if square <= 0:  # the noise is as large as the cell: nothing can be excluded
        return Figure(a / n, 0.0, 1.0)
    root = math.sqrt(max(linear**2 - 4 * square * constant, 0.0))
    low, high = (-linear - root) / (2 * square), (-linear + root) / (2 * square)
    return Figure(a / n, min(max(low, 0.0), a / n), max(min(high, 1.0), a / n))


def combine(weights: tuple[float, ...], parts: tuple[Figure, ...]) -> Figure:
    """Add independent figures up with weights; the interval by recovery of the variances (MOVER).

    Source: Zou and Donner 2008; with weights 1 and -1 it is Newcombe's 1998 hybrid score interval.
    """
    missing = next((part for part in parts if part.value is None), None)
    if missing is not None:
        return Figure(None, reason=missing.reason)
    value, below, above = 0.0, 0.0, 0.0
    for weight, part in zip(weights, parts, strict=True):
        centre, low, high = spread(part)
        value += weight * centre
        below += (weight * (centre - low if weight > 0 else centre - high)) ** 2
        above += (weight * (high - centre if weight > 0 else low - centre)) ** 2
    return Figure(value, value - math.sqrt(below), value + math.sqrt(above))


def spread(figure: Figure) -> tuple[float, float, float]:
    """Value, low and high of a figure that has them.

    Raises:
        ValueError: the figure has no value or no interval.
    """
    if figure.value is None or figure.low is None or figure.high is None:
        raise ValueError(f"a figure with value and interval was expected, got {figure}")
    return figure.value, figure.low, figure.high
