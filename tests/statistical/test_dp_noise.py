"""The noise of real training steps, measured: its size, its independence, who is drawn. The wrong ones must fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from client.train import LocalTraining, poisson_draw, train_round
from common.blocks import blocks_of, flatten
from common.data.batch import Batch, take
from common.privacy import noise as privacy_noise
from common.privacy.noise import NoiseSource, os_noise
from common.privacy.plan import PrivacyPlan
from tests.example_models import TASK, Recipe, model_of, ragged_batch

SIGNIFICANCE = 1e-6  # a true claim fails this once in a million runs
CLIP_NORM, NOISE_MULTIPLIER, DIVISOR, LEARNING_RATE = 0.5, 2.0, 7.0, 0.25
ROUNDS = 12


def _training(plan: PrivacyPlan) -> LocalTraining:
    return LocalTraining(TASK, 0.3, 0.0, LEARNING_RATE, 0.0, 0.0, plan.steps_per_round, 2, 0, "here", 0, plan)


def _plan(*, noise_multiplier: float = NOISE_MULTIPLIER, sampling_rate: float = 1.0) -> PrivacyPlan:
    return PrivacyPlan(8.0, 1e-3, CLIP_NORM, noise_multiplier, sampling_rate, 1, 10, DIVISOR, ())


def _source(number: int) -> NoiseSource:
    return privacy_noise.test_noise(0, "here", number, "training")


def _step_noise(batch: Batch, *, noise_multiplier: float = NOISE_MULTIPLIER) -> dict[str, np.ndarray]:
    """What the noise added to the clipped sum in real rounds: by block, [round, coordinate]."""
    quiet = _step(batch, _source(0), 1e-12)
    rounds = [_step(batch, _source(number), noise_multiplier) for number in range(ROUNDS)]
    return {block: np.stack([found[block] - quiet[block] for found in rounds]) for block in quiet}


def _step(batch: Batch, source: NoiseSource, noise_multiplier: float) -> dict[str, np.ndarray]:
    update = train_round(model_of(Recipe()), batch, _training(_plan(noise_multiplier=noise_multiplier)), source)
    return {block: -vector / LEARNING_RATE * DIVISOR for block, vector in update.items()}


def _std_is(samples: np.ndarray, std: float) -> bool:
    """A two-sided chi-square test of a Gaussian's standard deviation, its mean being zero."""
    lower = stats.chi2.cdf(np.square(samples / std).sum(), df=samples.size)
    return bool(min(lower, 1 - lower) > SIGNIFICANCE / 2)


@pytest.fixture(scope="module")
def measured() -> dict[str, np.ndarray]:
    return _step_noise(ragged_batch((2, 1, 3)))


def test_a_steps_noise_has_the_plans_standard_deviation_in_every_block(measured: dict[str, np.ndarray]) -> None:
    model = model_of(Recipe())
    assert set(measured) == set(blocks_of(model))
    assert all(_std_is(found, NOISE_MULTIPLIER * CLIP_NORM) for found in measured.values())
    together = np.concatenate([found.ravel() for found in measured.values()])
    assert together.size == ROUNDS * sum(vector.size for vector in flatten(model, blocks_of(model)).values())
    assert _std_is(together, NOISE_MULTIPLIER * CLIP_NORM)
    assert stats.kstest(together / (NOISE_MULTIPLIER * CLIP_NORM), "norm").pvalue > SIGNIFICANCE


@pytest.mark.parametrize("wrong", [0.93, 1.07, 0.5, 1 / CLIP_NORM, 1 / DIVISOR])
def test_the_wrong_sigma_fails(wrong: float) -> None:
    found = _step_noise(ragged_batch((2, 1, 3)), noise_multiplier=NOISE_MULTIPLIER * wrong)
    together = np.concatenate([block.ravel() for block in found.values()])
    assert not _std_is(together, NOISE_MULTIPLIER * CLIP_NORM)


def test_one_block_without_noise_fails(measured: dict[str, np.ndarray]) -> None:
    assert not _std_is(np.zeros_like(measured["encoder/labs"]), NOISE_MULTIPLIER * CLIP_NORM)


def test_a_step_without_anyone_is_noised_in_full() -> None:
    nobody = take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))
    found = np.concatenate([block.ravel() for block in _step_noise(nobody).values()])
    assert _std_is(found, NOISE_MULTIPLIER * CLIP_NORM)


def test_noise_does_not_depend_on_how_many_were_drawn(measured: dict[str, np.ndarray]) -> None:
    more = _step_noise(ragged_batch((1,) * 9))
    for block, found in measured.items():
        np.testing.assert_allclose(found, more[block], atol=1e-4)


def test_rounds_and_coordinates_are_independent(measured: dict[str, np.ndarray]) -> None:
    rounds = np.concatenate(list(measured.values()), axis=1) / (NOISE_MULTIPLIER * CLIP_NORM)
    size = rounds.shape[1]
    limit = stats.norm.isf(SIGNIFICANCE / ROUNDS**2) / np.sqrt(size)
    between_rounds = rounds @ rounds.T / size
    assert np.abs(between_rounds[~np.eye(ROUNDS, dtype=bool)]).max() < limit
    neighbours = rounds[:, :-1] * rounds[:, 1:]
    assert abs(neighbours.mean()) < stats.norm.isf(SIGNIFICANCE / 2) / np.sqrt(neighbours.size)
    assert np.abs(rounds @ np.roll(rounds, 1, axis=0).T / size).max() > limit, "a repeated round would be seen"


def test_the_sum_of_steps_carries_the_noise_of_every_step() -> None:
    nobody = take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))
    plan = replace(_plan(), steps_per_round=4)
    update = train_round(model_of(Recipe()), nobody, _training(plan), _source(0))
    found = np.concatenate(list(update.values())) / LEARNING_RATE * DIVISOR
    assert _std_is(found, 2 * NOISE_MULTIPLIER * CLIP_NORM)
    assert not _std_is(found, NOISE_MULTIPLIER * CLIP_NORM)


NUM_SUBJECTS, RATE, DRAWS = 200, 0.1, 400


def _sizes_are_poisson(drawn: np.ndarray) -> bool:
    """Are inclusion rate and the spread of the sample's size those of independent draws? [draw, subject]."""
    rate = stats.binomtest(int(drawn.sum()), drawn.size, RATE).pvalue > SIGNIFICANCE
    spread = np.square(drawn.sum(axis=1) - RATE * NUM_SUBJECTS).sum() / (NUM_SUBJECTS * RATE * (1 - RATE))
    tail = stats.chi2.cdf(spread, df=len(drawn))
    return bool(rate and min(tail, 1 - tail) > SIGNIFICANCE / 2)


def test_subjects_are_drawn_poisson_each_on_its_own() -> None:
    source = os_noise("here", "run", 0, "training")
    drawn = np.stack([poisson_draw(source, f"draw/{n}", NUM_SUBJECTS, rate=RATE).numpy() for n in range(DRAWS)])
    assert _sizes_are_poisson(drawn)
    by_subject = drawn.sum(axis=0)
    assert stats.binomtest(int(by_subject.max()), DRAWS, RATE).pvalue > SIGNIFICANCE
    assert stats.binomtest(int(by_subject.min()), DRAWS, RATE).pvalue > SIGNIFICANCE


def test_samples_of_a_fixed_size_fail() -> None:
    """Shuffled batches accounted as Poisson are the commonest false claim of all."""
    random = np.random.default_rng(0)
    drawn = np.zeros((DRAWS, NUM_SUBJECTS), dtype=np.bool_)
    for row in drawn:
        row[random.choice(NUM_SUBJECTS, int(RATE * NUM_SUBJECTS), replace=False)] = True
    assert not _sizes_are_poisson(drawn)


def test_a_rate_of_one_draws_everybody() -> None:
    assert bool(poisson_draw(os_noise("here", "run", 0, "training"), "draw", 10_000, rate=1.0).all())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_round_is_noised_once_by_however_many_processes(processes: int) -> None:
    steps, nobody = 8, take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))
    plan = replace(_plan(), steps_per_round=steps)

    def noise_of(number: int, processes: int) -> np.ndarray:
        training = replace(_training(plan), processes=processes)
        update = train_round(model_of(Recipe()), nobody, training, _source(number))
        return np.concatenate(list(update.values())) / LEARNING_RATE * DIVISOR

    std, found = CLIP_NORM * NOISE_MULTIPLIER * steps**0.5, noise_of(0, processes)
    assert _std_is(found, std)
    # Negative controls: every process adds noise of its own, or, forked, all of them the same.
    others = [noise_of(number, 1) for number in range(1, 2 + processes)]
    assert not _std_is(found + sum(others[:processes]), std)
    assert not _std_is((1 + processes) * found, std)
