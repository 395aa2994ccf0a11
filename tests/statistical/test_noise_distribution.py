"""What the noise is distributed like. Each check has a negative control: the wrong width, or a wrong law, must fail it.

The seeds are fixed, so that a check never fails by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from common.privacy import noise as noise_module
from common.privacy.events import LATTICE_SLACK
from common.privacy.lattice import LATTICE_VARIANCE, MOST_CELLS, SMALLEST_SHARE_VARIANCE, share_std
from common.privacy.noise import NoiseSource

SAMPLES, TABLE_SAMPLES = 200_000, 100_000
ALARM = 1e-4  # a p value below this says: another distribution


def source(name: str) -> NoiseSource:
    return noise_module.test_noise(20_11, name, 0, "statistics")


def p_normal(values: np.ndarray, std: float) -> float:
    """Kolmogorov-Smirnov and the exact test of the variance, together."""
    shape = stats.kstest(values, "norm", args=(0.0, std)).pvalue
    scaled = float(np.sum((values / std) ** 2))
    width = 2 * min(stats.chi2.cdf(scaled, len(values)), stats.chi2.sf(scaled, len(values)))
    return float(min(shape, width))


def masses(std: float, reach: int) -> np.ndarray:
    """Probabilities of the discrete Gaussian at -reach ... reach, straight from its definition."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    return np.asarray(weights / weights.sum())


def p_discrete(values: np.ndarray, std: float) -> float:
    """Pearson's chi-squared test against the discrete Gaussian, tails pooled."""
    reach = max(1, math.ceil(2.5 * std))
    far = 40 + math.ceil(12 * std)
    probability = masses(std, far)
    middle = probability[far - reach : far + reach + 1]
    expected = np.array([probability[: far - reach].sum(), *middle, probability[far + reach + 1 :].sum()])
    observed = np.bincount(np.clip(values, -reach - 1, reach + 1) + reach + 1, minlength=2 * reach + 3)
    keep = expected * len(values) >= 5
    observed = np.append(observed[keep], observed[~keep].sum())
    expected = np.append(expected[keep], expected[~keep].sum()) * len(values)
    filled = expected > 0.5
    return float(
        stats.chisquare(observed[filled], expected[filled] * observed[filled].sum() / expected[filled].sum()).pvalue
    )


def test_gaussian_noise_is_standard_normal() -> None:
    assert p_normal(source("gaussian").gaussian("step 0", SAMPLES), 1.0) > ALARM


@pytest.mark.parametrize("wrong", [0.98, 1.02, 1 / math.sqrt(2)])
def test_gaussian_noise_of_the_wrong_sigma_fails(wrong: float) -> None:
    assert p_normal(wrong * source("gaussian").gaussian("step 0", SAMPLES), 1.0) < ALARM


def test_gaussian_tails_are_there() -> None:
    values = np.abs(source("tails").gaussian("step 0", 1_000_000))
    for reach in (3.0, 4.0):
        expected = 1_000_000 * 2 * stats.norm.sf(reach)
        assert abs(np.sum(values > reach) - expected) < 4 * math.sqrt(expected)


def dependence(first: np.ndarray, second: np.ndarray) -> float:
    """The largest correlation between values, sizes and squares of two samples, in standard errors."""
    views = [(values, np.abs(values), values**2) for values in (first, second)]
    found = [abs(np.corrcoef(one, other)[0, 1]) for one in views[0] for other in views[1]]
    return float(max(found) * math.sqrt(len(first)))


def test_values_that_share_their_draws_are_independent_and_a_shared_length_would_be_seen() -> None:
    blocks = source("partners").gaussian("step 0", 50 * 4096).reshape(50, 2, 2048)
    cosines, sines = blocks[:, 0].ravel(), blocks[:, 1].ravel()
    assert p_normal(cosines, 1.0) > ALARM
    assert p_normal(sines, 1.0) > ALARM
    assert p_normal((cosines + sines) / math.sqrt(2.0), 1.0) > ALARM
    assert dependence(cosines, sines) < 5
    other = np.random.default_rng(5)
    length = np.hypot(cosines, sines)  # the wrong way: one length for both values, each under a sign of its own
    assert dependence(cosines, length * np.sign(other.normal(size=cosines.size))) > 50


def test_labels_are_uncorrelated_and_a_copy_would_be_seen() -> None:
    steps = np.stack([source("steps").gaussian(f"step {step}", 20_000) for step in range(6)])
    assert np.abs(np.corrcoef(steps) - np.eye(6)).max() < 5 / math.sqrt(20_000)
    copied = np.stack([*steps[:5], steps[0]])
    assert np.abs(np.corrcoef(copied) - np.eye(6)).max() > 0.9


def test_uniforms_are_uniform_and_a_bias_of_two_percent_would_be_seen() -> None:
    values = source("uniform").uniform("draw", SAMPLES)
    assert stats.kstest(values, "uniform").pvalue > ALARM
    assert stats.kstest(values**1.02, "uniform").pvalue < ALARM


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0, 2.5, 7.3])
def test_discrete_gaussian_is_the_discrete_gaussian(std: float) -> None:
    assert p_discrete(source("discrete").discrete_gaussian("table", std, TABLE_SAMPLES), std) > ALARM


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: source("discrete").discrete_gaussian("table", 2.0 * 0.95, TABLE_SAMPLES),
        lambda: source("discrete").discrete_gaussian("table", 2.0 * 1.05, TABLE_SAMPLES),
        lambda: 1 + source("discrete").discrete_gaussian("table", 2.0, TABLE_SAMPLES),
        lambda: np.rint(np.random.default_rng(3).laplace(0, math.sqrt(2.0), TABLE_SAMPLES)).astype(np.int64),
    ],
    ids=["too narrow", "too wide", "shifted", "another law"],
)
def test_another_law_fails_the_discrete_check(wrong: Callable[[], np.ndarray]) -> None:
    assert p_discrete(wrong(), 2.0) < ALARM


@pytest.mark.parametrize("std", [1000.0, 54_321_987.6, 2.0**28])
def test_wide_discrete_gaussian_has_its_width(std: float) -> None:
    values = source("wide").discrete_gaussian("table", std, TABLE_SAMPLES)
    assert p_normal(values, std) > ALARM
    assert p_normal(values, 0.97 * std) < ALARM
    assert p_normal(np.abs(values), std) < ALARM


def test_sum_of_honest_shares_has_the_planned_width() -> None:
    honest, sensitivity, multiplier = 3, 2.0, 2.5
    std = share_std(sensitivity, multiplier, honest)
    total = sum(source(f"site {site}").discrete_gaussian("table", std, TABLE_SAMPLES) for site in range(honest))
    planned = math.sqrt((sensitivity * multiplier) ** 2 + 2)
    assert p_discrete(np.asarray(total), planned) > ALARM
    two_sites = sum(source(f"site {site}").discrete_gaussian("table", std, TABLE_SAMPLES) for site in range(honest - 1))
    assert p_discrete(np.asarray(two_sites), planned) < ALARM


@pytest.mark.parametrize(("honest", "variance"), [(2, 0.5), (2, 1.0), (3, 1.0), (5, 0.7)])
def test_sum_of_discrete_gaussians_is_as_close_to_one_as_the_bound_says(honest: int, variance: float) -> None:
    """The step from shares to one discrete Gaussian in share_std, computed; small variances, where it can be seen."""
    reach = 30
    single = masses(math.sqrt(variance), reach)
    total = single
    for _ in range(honest - 1):
        total = np.convolve(total, single)
    one = masses(math.sqrt(honest * variance), reach * honest)
    middle = slice(reach * honest - 5, reach * honest + 6)
    apart = np.abs(np.log(total[middle] / one[middle])).max()
    bound = 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, honest))
    assert 0 < apart <= bound


@pytest.mark.parametrize("lattice", [0.3, 0.5, 1.0])
def test_rounding_a_gaussian_by_a_discrete_one_is_as_close_to_a_discrete_gaussian_as_claimed(lattice: float) -> None:
    """The other step in share_std: x + discrete Gaussian(V + s) against a post-processing of x + Gaussian(V)."""
    variance = 1.7
    grid = np.linspace(-14, 14, 140_001)
    density = stats.norm.pdf(grid, scale=math.sqrt(variance)) * (grid[1] - grid[0])
    integers = np.arange(-40, 41)
    weights = np.exp(-((integers[:, None] - grid[None, :]) ** 2) / (2 * lattice))
    rounded = (weights / weights.sum(axis=0)) @ density
    one = masses(math.sqrt(variance + lattice), 40)
    apart = np.abs(np.log(rounded[35:46] / one[35:46])).max()
    assert apart <= 4.2 * math.exp(-2 * math.pi**2 * lattice) + 1e-9


def test_the_claimed_distance_of_shares_holds_at_the_smallest_share() -> None:
    cells_times_sites = MOST_CELLS
    worst = 10 * math.exp(-(math.pi**2) * SMALLEST_SHARE_VARIANCE) + 4.2 * math.exp(-2 * math.pi**2 * LATTICE_VARIANCE)
    kappa = cells_times_sites * worst
    assert kappa <= 6e-9
    assert 6 * kappa <= LATTICE_SLACK  # (2a - 1) / (a - 1) at the smallest order, 1.25
