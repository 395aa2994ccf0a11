"""Quality of a binary classifier from its score histogram: [label, bin] counts that may carry privacy noise.

No cell is cut at zero: that would bias every sum. Only the finished figures are brought back into their range. Every
interval carries the sampling of the subjects and the noise, whose standard deviation is known; intervals that ignore
the noise are far too narrow (tests/statistical/test_audit_intervals.py shows both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.metrics.bins import ScoreBins
from common.metrics.figure import Figure
from common.metrics.interval import Z95, combine, share

_MOST_TIES = 0.5  # of all pairs: a model that gives everybody about one score has an AUROC that bins cannot show
_TIED = (
    "most pairs fall into one score bin, where their order is lost: an audit.base_rate near the scores, or more"
    " audit.score_bins, would part them"
)
_GRID = np.linspace(0.0, 1.0, 4001)


@dataclass(frozen=True)
class Histogram:
    """Noised counts of subjects by label and score bin.

    Attributes:
        counts: float64 [2, bin]; the second row has the condition.
        noise_std: standard deviation of the noise in every cell, in subjects.
        edge: bins from this one on count as called positive.
        base_rate: what the bins lie around.
    """

    counts: NDArray[np.float64]
    noise_std: float
    edge: int
    base_rate: float = 0.5

    @property
    def bins(self) -> int:
        """Number of score bins."""
        return int(self.counts.shape[1])

    @property
    def total(self) -> float:
        """Noised number of subjects."""
        return float(self.counts.sum())

    def noise_var(self, num_cells: int) -> float:
        """Variance of the noise in a sum of so many cells."""
        return num_cells * self.noise_std**2

    def above(self, label: int) -> float:
        """Noised number with this label that the model calls positive."""
        return float(self.counts[label, self.edge :].sum())

    def below(self, label: int) -> float:
        """Noised number with this label that the model calls negative."""
        return float(self.counts[label, : self.edge].sum())


def figures(histogram: Histogram, z: float = Z95) -> dict[str, Figure]:
    """Every metric with its interval, by name."""
    return {name: metric(histogram, z) for name, metric in METRICS.items()}


def true_positive_rate(histogram: Histogram, z: float = Z95) -> Figure:
    """Share of those with the condition that the model finds (sensitivity)."""
    return _rate(histogram, 1, z)


def false_positive_rate(histogram: Histogram, z: float = Z95) -> Figure:
    """Share of those without the condition that the model calls positive all the same."""
    return _rate(histogram, 0, z)


def selection_rate(histogram: Histogram, z: float = Z95) -> Figure:
    """Share of all that the model calls positive."""
    high, low = 2 * (histogram.bins - histogram.edge), 2 * histogram.edge
    called, rest = histogram.above(0) + histogram.above(1), histogram.below(0) + histogram.below(1)
    return share(called, rest, inside_var=histogram.noise_var(high), outside_var=histogram.noise_var(low), z=z)


def positive_predictive_value(histogram: Histogram, z: float = Z95) -> Figure:
    """Share of those called positive who have the condition."""
    var = histogram.noise_var(histogram.bins - histogram.edge)
    return share(histogram.above(1), histogram.above(0), inside_var=var, outside_var=var, z=z)


def accuracy(histogram: Histogram, z: float = Z95) -> Figure:
    """Share of all that the model is right about."""
    right, wrong = histogram.above(1) + histogram.below(0), histogram.below(1) + histogram.above(0)
    var = histogram.noise_var(histogram.bins)
    return share(right, wrong, inside_var=var, outside_var=var, z=z)


def balanced_accuracy(histogram: Histogram, z: float = Z95) -> Figure:
    """Mean of sensitivity and specificity."""
    found, false = true_positive_rate(histogram, z), false_positive_rate(histogram, z)
    both = combine((0.5, -0.5), (found, false))
    if both.value is None or both.low is None or both.high is None:
        return both
    return Figure(both.value + 0.5, both.low + 0.5, both.high + 0.5)


def f1(histogram: Histogram, z: float = Z95) -> Figure:
    """Harmonic mean of sensitivity and precision: 2 found / (2 found + missed + falsely called).

    The interval inverts a test, as the AUROC's does: all values F for which 2 found (1 - F) - F (missed + falsely
    called) is within z standard deviations of zero.
    """
    found, wrong = max(histogram.above(1), 0.0), max(histogram.below(1), 0.0) + max(histogram.above(0), 0.0)
    if 2 * found + wrong <= 0:
        return Figure(None, reason="nobody has the condition or is called positive, as far as the noise lets us see")
    value, high = 2 * found / (2 * found + wrong), histogram.bins - histogram.edge
    inside = 4 * (1 - _GRID) ** 2 * (found + histogram.noise_var(high))
    outside = _GRID**2 * (wrong + histogram.noise_var(high + histogram.edge))
    kept = _GRID[(2 * found * (1 - _GRID) - _GRID * wrong) ** 2 <= z**2 * (inside + outside)]
    return Figure(value, min(float(kept.min(initial=value)), value), max(float(kept.max(initial=value)), value))


def average_precision(histogram: Histogram, z: float = Z95) -> Figure:
    """Mean precision over those with the condition, from the highest bin down; a bin is taken as a whole.

    The interval is the delta method's, with what each cell's sampling and noise move it by.
    """
    negative, positive = histogram.counts
    if positive.sum() < 1 or negative.sum() < 1:
        return Figure(None, reason="needs subjects with and without the condition")
    value = _average_precision(histogram.counts)
    step = max(1e-3 * histogram.total, 1e-6)
    variance = 0.0
    for cell in np.ndindex(histogram.counts.shape):
        moved = histogram.counts.copy()
        moved[cell] += step
        slope = (_average_precision(moved) - value) / step
        variance += slope**2 * (max(float(histogram.counts[cell]), 0.0) + histogram.noise_var(1))
    half = z * math.sqrt(variance)
    return Figure(value, max(value - half, 0.0), min(value + half, 1.0))


def auroc(histogram: Histogram, z: float = Z95) -> Figure:
    """Chance that someone with the condition scores above someone without; the same bin counts half.

    Where most pairs tie it cannot be said: the bins' area would be near a half, whatever the scores' is.

    The interval inverts a test: all areas A for which U(A) = sum over pairs of bins of n_neg n_pos (won - A) is within
    z standard deviations of zero. Its variance is Hanley and McNeil's at A, plus the noise's: U is bilinear in the
    counts, and the term that plugging in noised counts adds is taken off again.

    Source: Hanley and McNeil 1982; inverted as in Newcombe 2006 (method 5).
    """
    negative, positive = histogram.counts
    num_negative, num_positive = float(negative.sum()), float(positive.sum())
    if num_negative < 1 or num_positive < 1:
        return Figure(None, reason="needs subjects with and without the condition")
    if float(positive @ negative) > _MOST_TIES * num_positive * num_negative:
        return Figure(None, reason=_TIED)
    won = _won(histogram.bins)
    value = float(positive @ won @ negative) / (num_positive * num_negative)
    value = min(max(value, 0.0), 1.0)
    pairs = num_positive * num_negative
    sampling = pairs**2 * hanley_mcneil(_GRID, num_positive, num_negative)
    inside = (float(positive @ won @ negative) - _GRID * pairs) ** 2 <= z**2 * (
        sampling + _noise_of_u(histogram, _GRID)
    )
    step = float(_GRID[1] - _GRID[0])
    kept = _GRID[inside] if inside.any() else np.array([value])
    low, high = max(float(kept.min()) - step, 0.0), min(float(kept.max()) + step, 1.0)
    return Figure(value, min(low, value), max(high, value))


def calibration_gap(histogram: Histogram, z: float = Z95) -> Figure:
    """Mean predicted chance minus observed share: above 0 the model promises too much risk (bins' middles are used)."""
    n = histogram.total
    if n < 1:
        return Figure(None, reason="no subjects in this cell, as far as the noise lets us see")
    residual = _residuals(histogram)
    value = min(max(float((histogram.counts * residual).sum()) / n, -1.0), 1.0)
    per_subject = max(float((histogram.counts * (residual - value) ** 2).sum()) / n, 0.0)
    noise = histogram.noise_std**2 * float(((residual - value) ** 2).sum())
    half = z * math.sqrt(n * per_subject + noise) / n
    return Figure(value, max(value - half, -1.0), min(value + half, 1.0))


def calibration_error(histogram: Histogram, z: float = Z95) -> Figure:
    """Expected calibration error over the score bins: mean distance of predicted and observed share.

    Noise and sampling only ever push it up, on average by at most sqrt(2 / pi) standard deviations a bin; the lower end
    takes that off, so the interval is conservative.
    """
    n = histogram.total
    if n < 1:
        return Figure(None, reason="no subjects in this cell, as far as the noise lets us see")
    residual = _residuals(histogram)
    distance = float(np.abs((histogram.counts * residual).sum(axis=0)).sum()) / n
    in_bin = np.maximum(histogram.counts.sum(axis=0), 0.0)
    variance = in_bin / 4 + histogram.noise_std**2 * (residual**2).sum(axis=0)
    bias, half = math.sqrt(2 / math.pi) * float(np.sqrt(variance).sum()) / n, z * math.sqrt(float(variance.sum())) / n
    return Figure(min(distance, 1.0), max(distance - bias - half, 0.0), min(distance + half, 1.0))


def hanley_mcneil(area: NDArray[np.float64], num_positive: float, num_negative: float) -> NDArray[np.float64]:
    """Variance of an area under the curve, by the area, from sampling the people.

    Source: Hanley and McNeil 1982, with exponential scores.
    """
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (num_positive - 1) * (first - area**2) + (num_negative - 1) * (second - area**2)
    return np.asarray((area * (1 - area) + spread) / (num_positive * num_negative))


METRICS = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "auroc": auroc,
    "average_precision": average_precision,
    "f1": f1,
    "selection_rate": selection_rate,
    "tpr": true_positive_rate,
    "fpr": false_positive_rate,
    "ppv": positive_predictive_value,
    "calibration_gap": calibration_gap,
    "calibration_error": calibration_error,
}


def _rate(histogram: Histogram, label: int, z: float) -> Figure:
    high, low = histogram.noise_var(histogram.bins - histogram.edge), histogram.noise_var(histogram.edge)
    return share(histogram.above(label), histogram.below(label), inside_var=high, outside_var=low, z=z)


def _average_precision(counts: NDArray[np.float64]) -> float:
    called, found = counts.sum(axis=0)[::-1].cumsum(), counts[1, ::-1].cumsum()
    precision = np.clip(found / np.maximum(called, 1.0), 0.0, 1.0)
    return min(max(float((counts[1, ::-1] * precision).sum() / max(float(counts[1].sum()), 1.0)), 0.0), 1.0)


def _won(bins: int) -> NDArray[np.float64]:
    """[bin of the positive, bin of the negative]: 1 where the positive scores higher, half where they tie."""
    return np.tril(np.ones((bins, bins)), -1) + 0.5 * np.eye(bins)


def _residuals(histogram: Histogram) -> NDArray[np.float64]:
    """Predicted minus observed, [label, bin]."""
    middle = ScoreBins(histogram.bins, histogram.base_rate).middles()
    return np.stack([middle, middle - 1.0])


def _noise_of_u(histogram: Histogram, area: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance that the noise alone gives U(area), per area."""
    negative, positive = histogram.counts
    won, size = _won(histogram.bins), histogram.bins**2
    by_positive = (won @ negative)[:, None] - area * negative.sum()
    by_negative = (positive @ won)[:, None] - area * positive.sum()
    linear = (by_positive**2).sum(axis=0) + (by_negative**2).sum(axis=0)
    both = float((won**2).sum()) - 2 * area * float(won.sum()) + area**2 * size
    var = histogram.noise_std**2
    return np.asarray(np.maximum(var * linear - var**2 * both, var**2 * both))
