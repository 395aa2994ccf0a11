"""The audit of single steps: what it says of correct code, of planted bugs, and how often it is wrong itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from client import train
from client.step_audit import num_canaries, observe
from client.train import LocalTraining
from common.data.batch import Batch
from common.privacy import noise as privacy_noise
from common.privacy import step_audit
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.lattice import fit_lattice
from common.privacy.noise import NoiseSource
from common.privacy.plan import PrivacyPlan
from common.privacy.step_audit import (
    ALARM,
    CONFIDENCE,
    Observed,
    largest_bound,
    mu_lower_bound,
    not_poisson,
    wrong_std,
)
from tests.planted_bugs import BUGS, MEAN_OF, SHARED, UNDER_SAMPLING

FEW, MANY = 400, 25_000  # observations on either side: 800 and 50,000 together
NEEDED = {"sqrt(2) times the sensitivity": 1_000}  # where FEW are too few
DELTA = 1e-5


def mu_of(epsilon: float) -> float:
    """The mu of one Gaussian release that costs `epsilon` at DELTA."""
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_epsilon(middle, DELTA) < epsilon else (low, middle)
    return low


def training_of(mu: float, *, shared: bool = False) -> LocalTraining:
    lattice = None
    if shared:
        lattice = fit_lattice(sites=4, coordinates=49, divisor=MEAN_OF, noise_multiplier=1 / mu, rounds=1)
    plan = PrivacyPlan(8.0, DELTA, 0.5, 1 / mu, 1.0, 1, 1, MEAN_OF, (), lattice)
    return LocalTraining("any", 0.0, 0.0, 1.0, 0.0, 0.0, 1, 1, 0, "here", 0, plan)


def source(number: int) -> NoiseSource:
    return privacy_noise.test_noise(number + 7, "here", 0, "audit")


def bound(mu: float, *, observations: int = FEW, shared: bool = False) -> float:
    """What the audit shows, with 95 % confidence, of a step for which `mu` is claimed."""
    training = training_of(mu, shared=shared)
    assert training.plan is not None
    observed = observe(training, observations=observations, source=source)
    return mu_lower_bound(observed, confidence=CONFIDENCE) / num_canaries(training.plan)


@pytest.mark.parametrize(
    ("shared", "mu"), [(False, 1.0), (False, 0.3), (True, 1.0), pytest.param(True, 0.3, marks=pytest.mark.slow)]
)
def test_correct_steps_pass_and_the_bound_is_near_the_claim(shared: bool, mu: float) -> None:
    least = 0.65 if shared else 0.7
    assert least * mu < bound(mu, shared=shared) <= mu


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in NEEDED else []) for name in BUGS]
)
def test_two_thousand_observations_or_fewer_catch_a_planted_bug(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name].plant(monkeypatch)
    assert bound(1.0, observations=NEEDED.get(name, FEW)) > 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_a_planted_bug_in_a_shared_step_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    SHARED[name].plant(monkeypatch)
    assert bound(1.0, shared=True) > 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("claimed", "shown"), [(8.0, 7.4), (4.6, 4.25)])
def test_fifty_thousand_observations_come_near_the_claimed_epsilon(claimed: float, shown: float) -> None:
    assert shown < gaussian_epsilon(bound(mu_of(claimed), observations=MANY), DELTA) <= claimed


def drawn_by(rate: float, *, steps: int = 40) -> np.ndarray:
    """Who is drawn by the real code: bool [step, subject]."""
    plan = PrivacyPlan(8.0, DELTA, 0.5, 1.0, rate, steps, 1, 7.0, ())
    training = LocalTraining("any", 0.0, 0.0, 1.0, 0.0, 0.0, steps, 1, 0, "here", 0, plan)
    subjects = torch.arange(round(100 / rate))
    batch, noise = Batch({}, {}, {}, {"any": torch.ones_like(subjects)}, {}, subjects), source(0)
    found = np.zeros((steps, len(subjects)), dtype=np.bool_)
    for step, row in enumerate(found):
        row[train.draw_sample(batch, training, noise, step).subjects.numpy()] = True
    return found


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.1, 0.01])
def test_subjects_that_are_drawn_as_planned_pass(rate: float) -> None:
    assert not not_poisson(drawn_by(rate), rate)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("name", UNDER_SAMPLING)
def test_batches_that_are_not_poisson_are_seen(name: str, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    UNDER_SAMPLING[name].plant(monkeypatch)
    assert not_poisson(drawn_by(rate), rate)


def test_epochs_in_which_everybody_comes_once_are_seen() -> None:
    random = np.random.default_rng(0)
    turn = random.integers(10, size=1000)  # sizes vary as they should, but nobody comes twice in an epoch
    assert not_poisson(np.stack([turn == step % 10 for step in range(40)]), 0.1)


def gaussian(mu: float, random: np.random.Generator) -> Observed:
    present, absent = random.normal(size=(2, 200, 3))
    present[:, 1] += mu
    return Observed(present, absent)


@pytest.mark.parametrize("mu", [0.0, 1.0, 3.0])
def test_the_bound_of_a_true_gaussian_exceeds_its_mu_as_rarely_as_it_says(mu: float) -> None:
    random = np.random.default_rng(3)
    found = np.array([mu_lower_bound(gaussian(mu, random), confidence=CONFIDENCE) for _ in range(400)])
    assert np.mean(found > mu) < 1 - CONFIDENCE
    assert np.median(found) >= 0.5 * mu, "a bound that says nothing would pass as well"


def test_a_bound_that_chooses_its_test_on_what_it_counts_is_wrong_more_often() -> None:
    """The negative control of the one above: the best of many tests looks too good."""
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        observed = gaussian(0.0, random)
        statistic, sign, threshold = step_audit._selected(observed)
        hits, alarms = (
            int((sign * side[:, statistic] > threshold).sum()) for side in (observed.present, observed.absent)
        )
        wrong += bool(step_audit._least(hits, 200, CONFIDENCE) > step_audit._most(alarms, 200, CONFIDENCE))
    assert wrong / 400 > 2 * (1 - CONFIDENCE)


def test_what_never_looks_alike_gives_the_largest_bound() -> None:
    present, absent = np.full((FEW, 1), 9.0), np.zeros((FEW, 1))
    assert mu_lower_bound(Observed(present, absent), confidence=CONFIDENCE) == pytest.approx(
        largest_bound(FEW, confidence=CONFIDENCE)
    )
    assert mu_lower_bound(Observed(absent, absent), confidence=CONFIDENCE) == 0.0
    assert largest_bound(FEW, confidence=1 - ALARM) < largest_bound(FEW, confidence=CONFIDENCE) < math.inf


def test_a_fifth_less_noise_is_seen_in_two_thousand_draws_and_none_less_is_not() -> None:
    random = np.random.default_rng(5)
    for _ in range(200):
        values = random.normal(size=2000)
        assert not wrong_std(3.0 * values, 3.0)
        assert wrong_std(0.8 * 3.0 * values, 3.0)
        assert wrong_std(1.25 * 3.0 * values, 3.0)
