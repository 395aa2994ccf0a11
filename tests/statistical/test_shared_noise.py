"""The noise that sites share out, as it comes out of real steps and real sums. The wrong shares must fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from client.shared_noise import shared_step
from client.train import LocalTraining, train_round
from common.blocks import blocks_of, flatten
from common.data.batch import Batch, take
from common.privacy import noise as privacy_noise
from common.privacy.lattice import fit_lattice
from common.privacy.plan import PrivacyPlan
from common.secagg.encoding import decode_counts
from common.secagg.roster import guaranteed_honest, threshold_of
from tests.example_models import TASK, Recipe, model_of, ragged_batch

SIGNIFICANCE = 1e-6  # a true claim fails this once in a million runs
SITES, ROUNDS, CLIP_NORM, NOISE_MULTIPLIER, DIVISOR = 10, 5, 0.5, 2.0, 7.0
HONEST = guaranteed_honest(SITES)
MODEL = model_of(Recipe())
SIZE = sum(vector.size for vector in flatten(MODEL, blocks_of(MODEL)).values())
BARE = PrivacyPlan(8.0, 1e-3, CLIP_NORM, NOISE_MULTIPLIER, 1.0, 1, ROUNDS, DIVISOR, ())
LATTICE = fit_lattice(sites=SITES, coordinates=SIZE, divisor=DIVISOR, noise_multiplier=NOISE_MULTIPLIER, rounds=ROUNDS)
PLAN = replace(BARE, lattice=LATTICE)
PLANNED = NOISE_MULTIPLIER * CLIP_NORM * LATTICE.l2_sensitivity / LATTICE.clip_steps
NOBODY = take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))


def _step(batch: Batch, site: int, number: int, *, honest: int = HONEST) -> dict[str, np.ndarray]:
    training = LocalTraining(TASK, 0.3, 0.0, 0.25, 0.0, 0.0, 1, 2, 0, str(site), number, PLAN)
    source = privacy_noise.test_noise(0, str(site), number, "training")
    return shared_step(model_of(Recipe()), batch, training, source, honest=honest)


def _noise(sites: int, *, honest: int = HONEST) -> np.ndarray:
    """What is in the decoded sums of real rounds in which nobody is: [round, coordinate], in units of gradients."""
    rounds = []
    for number in range(ROUNDS):
        total = np.zeros(SIZE, dtype=np.uint32)
        for site in range(sites):
            total += np.concatenate(list(_step(NOBODY, site, number, honest=honest).values())).astype(np.uint32)
        rounds.append(decode_counts(total) * PLAN.step)
    return np.stack(rounds)


def _std_is(samples: np.ndarray, std: float) -> bool:
    """A two-sided chi-square test of a Gaussian's standard deviation, its mean being zero."""
    lower = stats.chi2.cdf(np.square(samples / std).sum(), df=samples.size)
    return bool(min(lower, 1 - lower) > SIGNIFICANCE / 2)


def test_the_guaranteed_honest_sites_together_carry_the_planned_noise() -> None:
    found = _noise(HONEST)
    assert found.size == ROUNDS * SIZE
    assert _std_is(found, PLANNED)
    assert stats.kstest(found.ravel() / PLANNED, "norm").pvalue > SIGNIFICANCE


def test_one_site_carries_its_share_and_the_smallest_sum_more_than_was_planned() -> None:
    assert _std_is(_noise(1), PLANNED / np.sqrt(HONEST))
    assert _std_is(_noise(threshold_of(SITES)), PLANNED * np.sqrt(threshold_of(SITES) / HONEST))
    assert threshold_of(SITES) > HONEST


@pytest.mark.parametrize("wrong", [SITES, threshold_of(SITES), HONEST + 1, HONEST - 1])
def test_shares_for_another_number_of_honest_sites_fail(wrong: int) -> None:
    assert not _std_is(_noise(HONEST, honest=wrong), PLANNED)


def test_a_missing_share_fails() -> None:
    assert not _std_is(_noise(HONEST - 1), PLANNED)


def test_sites_rounds_and_coordinates_are_independent() -> None:
    draws = np.stack([np.concatenate(list(_step(NOBODY, site, 0).values())) for site in range(6)]).astype(np.float64)
    limit = stats.norm.isf(SIGNIFICANCE / 100) / np.sqrt(SIZE)
    for rows in (draws, _noise(1), np.stack([draws[:, :-1].ravel(), draws[:, 1:].ravel()])):
        apart = np.asarray(np.corrcoef(rows))[~np.eye(len(rows), dtype=np.bool_)]
        assert np.abs(apart).max() < limit
    copied = np.asarray(np.corrcoef(np.stack([draws[0], draws[0]])))
    assert copied[0, 1] > limit


def test_the_sum_of_gradients_comes_through_exactly_to_a_step_of_the_lattice() -> None:
    """The same noise with people and without: what is left is their rounded sum, the same as plain training clips."""
    batch = ragged_batch((2, 1, 3))
    with_them, without = _step(batch, 0, 0), _step(NOBODY, 0, 0)
    found = {block: (with_them[block] - without[block]) * PLAN.step for block in without}
    quiet = LocalTraining(TASK, 0.3, 0.0, 1.0, 0.0, 0.0, 1, 2, 0, "here", 0, replace(BARE, noise_multiplier=1e-12))
    update = train_round(model_of(Recipe()), batch, quiet, privacy_noise.test_noise(0, "here", 0, "training"))
    for block, vector in update.items():
        np.testing.assert_allclose(found[block], -vector * DIVISOR, atol=2e-6)
    assert np.sqrt(sum(np.square(vector).sum() for vector in found.values())) > 0.3 * CLIP_NORM


def test_a_model_with_more_coordinates_than_were_planned_is_refused() -> None:
    smaller = fit_lattice(
        sites=SITES, coordinates=SIZE - 1, divisor=DIVISOR, noise_multiplier=NOISE_MULTIPLIER, rounds=ROUNDS
    )
    training = LocalTraining(TASK, 0.3, 0.0, 0.25, 0.0, 0.0, 1, 2, 0, "here", 0, replace(BARE, lattice=smaller))
    with pytest.raises(ValueError, match=f"the plan is for {SIZE - 1} coordinates, the model has {SIZE}"):
        shared_step(model_of(Recipe()), NOBODY, training, privacy_noise.test_noise(0, "x", 0, "training"), honest=2)
