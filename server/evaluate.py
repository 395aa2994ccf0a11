"""From the evaluation's summed, noised table to the figures that a federation without a simulator has."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.fairness.figures import figures_of
from common.fairness.table import TableLayout, cell_noise, subjects_by_label, unflatten
from common.fairness.texts import figures_of_texts
from common.metrics.figure import Figure
from common.metrics.interval import Z95
from common.reports.record import ReleasedTest


def evaluation_figures(
    layout: TableLayout, counts: NDArray[np.int64], *, noise_std: float, threshold: float
) -> ReleasedTest:
    """Read the model's quality, under every modality condition, off the released table.

    Args:
        layout: the evaluation's layout.
        counts: [cell] the released sum.
        noise_std: standard deviation of the noise that is in every cell of that sum.
        threshold: score from which a subject counts as positive; moved to the nearest edge of a bin.
    """
    table, noise = unflatten(layout, counts)[:, 0], cell_noise(layout, noise_std)
    edge = layout.score_bins.edge_of(threshold)
    texts = figures_of_texts(layout, counts, noise_std)
    found = {
        condition.name: figures_of(layout, table[number], float(noise[number]), edge) | texts[number]
        for number, condition in enumerate(layout.conditions)
    }
    weights = np.array([condition.weight**2 for condition in layout.conditions], dtype=np.float64)
    counted = subjects_by_label(layout, table).sum(axis=1) / layout.answers
    total = float((weights * counted).sum() / weights.sum())
    cells = len(layout.labels) * layout.cells_per_label / layout.answers**2
    half = Z95 * math.sqrt(cells * float((weights**2 * noise**2).sum())) / float(weights.sum())
    return ReleasedTest(Figure(total, max(total - half, 0.0), total + half), noise_std / layout.unit, found)
