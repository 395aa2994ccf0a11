"""Quality of a regression from sums over subjects, in fixed point: one row of integers that may carry privacy noise.

Sums tell error and spread exactly, where bins of the error would round every subject, and cost less noise than bins do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.metrics.figure import Figure
from common.metrics.interval import Z95

UNIT = 1024
"""What one subject counts; every other sum is rounded to 1 / 1024, subject by subject."""
NUM_MOMENTS = 7
# At most 1 each: that the subject is there, its error (with sign, as a size, to the powers of two and four); and the
# true value, measured from the middle of its range, which reaches half of it to either side.
REACH = UNIT * math.sqrt(1 + 4 + 1 / 4 + 1 / 16) + math.sqrt(NUM_MOMENTS - 1) / 2
"""The most that one subject moves the sums, in L2 norm: their largest values, and half a step of rounding in each."""


def moments_of(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.int64]:
    """What subjects add to the sums: int64 [subject, moment], of numbers [subject] within [-1, 1].

    Guarantees:
        bounded: a row's L2 norm is at most REACH.
    """
    middle = np.clip(true, -1.0, 1.0) / 2
    error = np.clip(predicted, -1.0, 1.0) / 2 - middle
    parts = [np.ones_like(error), error, np.abs(error), error**2, error**4, middle, middle**2]
    return np.asarray(np.rint(UNIT * np.stack(parts, axis=1)), dtype=np.int64)


@dataclass(frozen=True)
class _Sums:
    """Sums in subjects, each with noise of one standard deviation; errors in parts of the range."""

    subjects: float
    error: float
    size: float
    square: float
    fourth: float
    value: float
    value_square: float

    def mean(self, total: float) -> float:
        return total / self.subjects


def moment_figures(
    sums: NDArray[np.float64], noise_std: float, limits: tuple[float, float], z: float = Z95
) -> dict[str, Figure]:
    """Mean absolute error, root of the mean squared error, R2, and mean error, with their intervals.

    Args:
        sums: [moment], in subjects.
        noise_std: standard deviation of the noise in every sum, in subjects.
        limits: the task's public range; errors are given in its unit.
        z: normal quantile of the wanted confidence.
    """
    found = _Sums(*(float(total) for total in sums))
    names = ("mae", "rmse", "r2", "bias")
    if found.subjects < 1:
        return dict.fromkeys(names, Figure(None, reason="no subjects in this cell, as far as the noise lets us see"))
    span, square = limits[1] - limits[0], max(found.mean(found.square), 0.0)
    mae, bias = found.mean(found.size), found.mean(found.error)
    # Where the noise makes a second moment too small, its mean would look more certain than it is.
    largest, fourth = (found.mean(total) + z * noise_std / found.subjects for total in (found.square, found.fourth))
    wide = _half(found, square, max(fourth - square**2, 0.0), noise_std, z)
    return {
        "mae": _within(mae, _half(found, mae, max(largest - mae**2, 0.0), noise_std, z), span, least=0.0),
        "rmse": Figure(
            span * math.sqrt(min(square, 1.0)),
            span * math.sqrt(min(max(square - wide, 0.0), 1.0)),
            span * math.sqrt(min(square + wide, 1.0)),
        ),
        "r2": _explained(found, square, noise_std, z),
        "bias": _within(bias, _half(found, bias, max(largest - bias**2, 0.0), noise_std, z), span, least=-1.0),
    }


def _half(found: _Sums, mean: float, per_subject: float, noise_std: float, z: float) -> float:
    """Half of the interval of a mean: sampling, and the noise of both sums that it is the ratio of."""
    return z * math.sqrt(found.subjects * per_subject + noise_std**2 * (1 + mean**2)) / found.subjects


def _within(value: float, half: float, span: float, *, least: float) -> Figure:
    low, middle, high = (min(max(one, least), 1.0) for one in (value - half, value, value + half))
    return Figure(span * middle, span * low, span * high)


def _explained(found: _Sums, square: float, noise_std: float, z: float) -> Figure:
    """R2, by the delta method; what a single true value can add to the variance is bounded, so that it is rather wide.

    R2 is zero of the mean of e^2 - (1 - R2) d^2, where d is how far a true value is from the mean; its second moment is
    at most that of its two parts, and d^4 at most d^2 times its largest value.
    """
    centre = found.mean(found.value)
    spread = found.mean(found.value_square) - centre**2
    if spread <= 0 or noise_std > found.subjects * spread:
        return Figure(None, reason="the true values differ too little for the noise")
    left = square / spread
    largest = (0.5 + min(abs(centre), 0.5)) ** 2
    sampling = found.subjects * (max(found.mean(found.fourth), 0.0) + left**2 * spread * largest)
    slopes = (1.0, left, 2 * left * centre, square - left * (spread - centre**2))
    noise = noise_std**2 * sum(slope**2 for slope in slopes)
    half = z * math.sqrt(sampling + noise) / (found.subjects * spread)
    return Figure(1 - left, 1 - left - half, min(1 - left + half, 1.0))
