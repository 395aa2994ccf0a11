"""The end of the evaluation's table where a model writes texts: condition x modality x sum of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.fairness.table import TableLayout, mean_by_subject
from common.metrics.figure import Figure
from common.metrics.texts import NUM_SUMS, SCORES, TEXT_UNIT, text_figures, text_sums

Scores = NDArray[np.float64]


def fill_texts(
    layout: TableLayout, scores: Mapping[str, Mapping[str, Scores]], subjects: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Add a site's subjects up into the cells that are about texts.

    Args:
        layout: what the cells are.
        scores: by condition, by modality that is told, [row, score]; NaN where the row has no text to compare with.
        subjects: [row] index of the row's subject.

    Returns:
        [cell] integer sums.

    Guarantees:
        one contribution: a subject counts once per condition and modality, with the mean of its rows' scores; who has
        no text counts nowhere.
    """
    table = np.zeros((len(layout.conditions), len(layout.told), NUM_SUMS), dtype=np.int64)
    for place, condition in enumerate(layout.conditions if len(subjects) else ()):
        for number, name in enumerate(layout.told):
            means = mean_scores(scores[condition.name][name], subjects)
            table[place, number] = condition.weight * text_sums(means).sum(axis=0)
    return table.ravel()


def mean_scores(scores: Scores, subjects: NDArray[np.int64]) -> Scores:
    """Each subject's mean over its rows with a text, of scores [row, score]: [subject, score]."""
    known = np.isfinite(scores).all(axis=1)
    if not known.any():
        return np.zeros((0, len(SCORES)))
    return mean_by_subject(scores[known], subjects[known], np.unique(subjects[known]))


def figures_of_texts(layout: TableLayout, vector: NDArray[np.int64], noise_std: float) -> list[dict[str, Figure]]:
    """Read every figure about texts off a table, by condition, in order: `bleu/note`, with its interval.

    Args:
        layout: what the cells are.
        vector: [cell] the released sum.
        noise_std: standard deviation of the noise in every cell.
    """
    cells = (
        vector[math.prod(layout.shape) :].astype(np.float64).reshape(len(layout.conditions), len(layout.told), NUM_SUMS)
    )
    found = []
    for condition, sums in zip(layout.conditions, cells, strict=True):
        unit = TEXT_UNIT * condition.weight
        each = {name: text_figures(own / unit, noise_std / unit) for name, own in zip(layout.told, sums, strict=True)}
        found.append({f"{score}/{name}": own[score] for name, own in each.items() for score in SCORES})
    return found
