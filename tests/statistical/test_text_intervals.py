"""Intervals of mean scores of texts cover 95 % and more, with noise on and off; ones that ignore the noise do not."""

from __future__ import annotations

import numpy as np
import pytest

from common.metrics.texts import SCORES, TEXT_UNIT, text_figures, text_sums

RUNS = 800


def coverage(subjects: int, noise_std: float, assumed_std: float, *, whole: bool) -> float:
    """How often each score's interval holds the true mean; `whole`: every score is 0 or 1, as spread as can be."""
    rng = np.random.default_rng(5)
    hits = np.zeros(len(SCORES))
    truth = np.array([0.3, 0.5, 0.9])
    for _ in range(RUNS):
        scores = rng.random((subjects, 3)) < truth if whole else rng.beta(4 * truth, 4 * (1 - truth), (subjects, 3))
        noised = text_sums(scores.astype(float)).sum(axis=0) / TEXT_UNIT + rng.normal(0, noise_std, 1 + len(SCORES))
        found = text_figures(noised, assumed_std)
        for place, name in enumerate(SCORES):
            low, high = found[name].low, found[name].high
            hits[place] += low is not None and high is not None and low <= truth[place] <= high
    return float(hits.min() / RUNS)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("subjects", "noise_std"), [(60, 0.0), (60, 6.0), (400, 25.0)])
def test_intervals_that_carry_the_noise_cover_the_mean(subjects: int, noise_std: float, *, whole: bool) -> None:
    assert coverage(subjects, noise_std, noise_std, whole=whole) > 0.93


def test_intervals_that_ignore_the_noise_do_not() -> None:
    assert coverage(60, 12.0, 0.0, whole=True) < 0.85
