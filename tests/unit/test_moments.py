from __future__ import annotations

import numpy as np
import pytest

from common.metrics.moments import REACH, UNIT, moment_figures, moments_of

LIMITS = (10.0, 30.0)


def test_the_figures_of_the_sums_are_those_of_the_subjects() -> None:
    random = np.random.default_rng(0)
    true = random.uniform(-1, 1, 400)
    predicted = np.clip(true + random.normal(0.1, 0.2, 400), -1, 1)
    found = moment_figures(moments_of(predicted, true).sum(axis=0) / UNIT, 0.0, LIMITS)
    error = 10 * (predicted - true)
    expected = {
        "mae": np.abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "bias": error.mean(),
        "r2": 1 - (error**2).mean() / (100 * true.var()),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=2e-3), name


def test_no_subject_adds_more_than_the_stated_reach() -> None:
    ends = np.linspace(-1, 1, 41)
    rows = moments_of(*(grid.ravel() for grid in np.meshgrid(ends, ends)))
    assert np.linalg.norm(rows, axis=1).max() <= REACH
    assert np.linalg.norm(rows, axis=1).max() > 0.999 * REACH
    assert np.linalg.norm(moments_of(np.array([np.inf, 50.0]), np.array([-50.0, 50.0])), axis=1).max() <= REACH


def test_an_empty_cell_says_nothing() -> None:
    for figure in moment_figures(np.zeros(7), 3.0, LIMITS).values():
        assert figure.value is None
        assert figure.reason
