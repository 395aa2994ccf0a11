"""The exact privacy curve of one Gaussian release, without any library: it answers in microseconds."""

from __future__ import annotations

import math

_SQRT2 = math.sqrt(2.0)
_FAR = 25.0
_ROUNDS = 200
_MARGIN = 1e-12


def gaussian_delta(ratio: float, epsilon: float) -> float:
    """Give the smallest delta of a Gaussian release at `epsilon`; `ratio` is L2 sensitivity / std.

    Source: Balle and Wang 2018, arXiv:1805.06530, theorem 8.
    """
    if ratio == 0:
        return 0.0
    above, below = ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio
    return max(0.0, _normal_cdf(above) - math.exp(epsilon + _log_normal_cdf(below)))


def gaussian_epsilon(ratio: float, delta: float) -> float:
    """Give the smallest epsilon of a Gaussian release at `delta`, rounded up; `ratio` is L2 sensitivity / std."""
    if ratio == 0 or gaussian_delta(ratio, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(ratio, high) > delta:
        low, high = high, 2 * high
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if gaussian_delta(ratio, middle) > delta else (low, middle)
    return high * (1 + _MARGIN)


def _normal_cdf(value: float) -> float:
    return math.erfc(-value / _SQRT2) / 2


def _log_normal_cdf(value: float) -> float:
    if value > -_FAR:
        return math.log(_normal_cdf(value))
    # Far in the tail the cdf underflows; its asymptotic series bounds it from below with an even number of terms.
    square = value * value
    series = 1 - 1 / square + 3 / square**2 - 15 / square**3
    return -square / 2 - math.log(-value) - math.log(2 * math.pi) / 2 + math.log(series)
