"""From one group's cells to its figures, by the kind of task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from common.fairness.table import TableLayout
from common.metrics.confusion import confusion_figures
from common.metrics.figure import Figure
from common.metrics.histogram import Histogram, figures
from common.metrics.interval import spread
from common.metrics.moments import moment_figures

Cells = NDArray[np.float64]


def figures_of(layout: TableLayout, counts: Cells, noise_std: float, edge: int) -> dict[str, Figure]:
    """Read every figure off cells [label, bin or sum], with its interval.

    A multilabel task has each figure for each label (`auroc/edema`), and its mean over the labels (`auroc`).

    Args:
        layout: what the cells are.
        counts: the cells, in subjects.
        noise_std: standard deviation of the noise in every cell, in subjects.
        edge: score bins from this one on count as called positive.
    """
    return _FIGURES[layout.kind](layout, counts, noise_std, edge)


def _multilabel(layout: TableLayout, counts: Cells, noise_std: float, edge: int) -> dict[str, Figure]:
    names = [label.rpartition(" = ")[0] for label in layout.labels[::2]]
    each = {
        name: figures(Histogram(counts[2 * place : 2 * place + 2], noise_std, edge, layout.base_rate))
        for place, name in enumerate(names)
    }
    means = {metric: _mean([one[metric] for one in each.values()]) for metric in next(iter(each.values()))}
    return means | {f"{metric}/{name}": one for name, found in each.items() for metric, one in found.items()}


def _mean(parts: list[Figure]) -> Figure:
    """The mean of figures about the same people: as wide as the mean of their intervals, whatever goes together."""
    missing = next((part for part in parts if part.value is None), None)
    if missing is not None:
        return Figure(None, reason=missing.reason)
    value, low, high = (sum(column) / len(parts) for column in zip(*map(spread, parts), strict=True))
    return Figure(value, low, high)


_FIGURES: dict[str, Callable[[TableLayout, Cells, float, int], dict[str, Figure]]] = {
    "binary": lambda layout, counts, noise_std, edge: figures(Histogram(counts, noise_std, edge, layout.base_rate)),
    "multiclass": lambda _layout, counts, noise_std, _edge: confusion_figures(counts, noise_std),
    "multilabel": _multilabel,
    "regression": lambda layout, counts, noise_std, _edge: moment_figures(counts[0], noise_std, layout.limits),
}
