"""A site's local training: what it steps along, what it draws, and that it depends on no chance that it should not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.dp import Clipping
from client.hiding import drop_modalities
from client.train import LocalTraining, clipping_of, train_round
from common.blocks import blocks_of, flatten
from common.data.batch import take
from common.privacy import noise as privacy_noise
from common.privacy.noise import NoiseSource, os_noise
from common.privacy.plan import PrivacyPlan
from tests.example_models import TASK, Recipe, model_of, ragged_batch
from tests.reference_gradients import one_subject

QUIET = 1e-9  # a noise multiplier that no float32 weight can show


def plan_of(*, noise_multiplier: float = QUIET, sampling_rate: float = 1.0, steps: int = 1) -> PrivacyPlan:
    return PrivacyPlan(8.0, 1e-3, 0.5, noise_multiplier, sampling_rate, steps, 10, 7.0, ())


def training_of(plan: PrivacyPlan | None, *, steps: int = 1, round_: int = 0) -> LocalTraining:
    return LocalTraining(
        task=TASK,
        auxiliary_weight=0.3,
        modality_dropout=0.0,
        learning_rate=0.25,
        weight_decay=0.0,
        proximal=0.0,
        steps=steps,
        batch_subjects=2,
        seed=3,
        site="here",
        round=round_,
        plan=plan,
    )


def flat(update: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([update[block] for block in sorted(update)])


def noise(number: int = 0) -> NoiseSource:
    return privacy_noise.test_noise(number, "here", 0, "training")


def test_a_private_step_is_the_clipped_sum_over_the_public_divisor() -> None:
    model, batch = model_of(Recipe()), ragged_batch((2, 1, 3))
    clipping = Clipping(TASK, 0.3, 0.5)
    expected = torch.stack([one_subject(model, batch, subject, clipping) for subject in range(3)]).sum(dim=0) / 7.0
    names = [name for name, _ in model.named_parameters()]
    before = {name: part.detach().clone() for name, part in model.named_parameters()}
    train_round(model, batch, training_of(plan_of()), noise())
    moved = torch.cat([(dict(model.named_parameters())[name] - before[name]).ravel() for name in names])
    assert torch.allclose(moved.double(), -0.25 * expected, atol=1e-6)


def test_the_update_is_what_happened_to_the_model_in_every_block() -> None:
    model, batch = model_of(Recipe()), ragged_batch((2, 1, 3))
    before = flatten(model, blocks_of(model))
    update = train_round(model, batch, training_of(plan_of(noise_multiplier=1.0)), noise())
    after = flatten(model, blocks_of(model))
    assert set(update) == set(blocks_of(model))
    for block, vector in update.items():
        np.testing.assert_array_equal(vector, after[block].astype(np.float64) - before[block])
        assert vector.any(), f"{block} did not move: it got no noise"


def test_subjects_without_a_label_have_no_part() -> None:
    batch = ragged_batch((2, 1, 3))
    labels = torch.where(batch.subjects == 1, -1, batch.labels[TASK])
    unlabelled = replace(batch, labels={**batch.labels, TASK: labels})
    updates = [
        train_round(model_of(Recipe()), rows, training_of(plan_of()), noise())
        for rows in (unlabelled, take(batch, batch.subjects != 1))
    ]
    np.testing.assert_allclose(flat(updates[0]), flat(updates[1]), atol=1e-7)


@pytest.mark.parametrize("private", [True, False])
def test_a_site_without_rows_takes_its_steps_all_the_same(private: bool) -> None:
    batch = take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))
    plan = plan_of(noise_multiplier=1.0, steps=3) if private else None
    update = flat(train_round(model_of(Recipe()), batch, training_of(plan, steps=3), noise()))
    assert np.all(update != 0) if private else not update.any()


def test_the_same_noise_source_repeats_a_round_and_another_does_not() -> None:
    batch = ragged_batch((2, 1, 3))
    plan = plan_of(noise_multiplier=1.0, sampling_rate=0.5, steps=2)
    once, again, other = (
        flat(train_round(model_of(Recipe()), batch, training_of(plan, steps=2), noise(number))) for number in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_privacy_noise_does_not_follow_torchs_or_numpys_seed() -> None:
    batch, updates = ragged_batch((2, 1, 3)), []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        source = os_noise("here", "run", 0, "training")
        updates.append(flat(train_round(model_of(Recipe()), batch, training_of(plan_of(noise_multiplier=1.0)), source)))
    assert not np.isclose(updates[0], updates[1], rtol=1e-6, atol=1e-9).any()


def test_every_step_of_a_round_has_its_own_noise() -> None:
    nobody = take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))
    one, two = (
        flat(
            train_round(
                model_of(Recipe()), nobody, training_of(plan_of(noise_multiplier=1.0, steps=n), steps=n), noise()
            )
        )
        for n in (1, 2)
    )
    assert abs(np.corrcoef(one, two - one)[0, 1]) < 0.2


def test_a_plan_with_another_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be the plan's 2, got 1"):
        train_round(model_of(Recipe()), ragged_batch((1,)), training_of(plan_of(steps=2)), noise())


@pytest.mark.parametrize("private", [True, False])
def test_weight_decay_pulls_towards_zero(private: bool) -> None:
    batch = take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))
    plan, model = (plan_of() if private else None), model_of(Recipe())
    before = flat(flatten(model, blocks_of(model)))
    pulled = replace(training_of(plan), weight_decay=0.1)
    np.testing.assert_allclose(flat(train_round(model, batch, pulled, noise())), -0.25 * 0.1 * before, atol=1e-6)


def test_the_proximal_pull_is_towards_the_rounds_first_weights() -> None:
    nobody = take(ragged_batch((1,)), torch.zeros(0, dtype=torch.int64))

    def moved(*, steps: int, proximal: float) -> np.ndarray:
        training = training_of(plan_of(noise_multiplier=1.0, steps=steps), steps=steps)
        return flat(train_round(model_of(Recipe()), nobody, replace(training, proximal=proximal), noise()))

    one = moved(steps=1, proximal=0.4)
    np.testing.assert_array_equal(one, moved(steps=1, proximal=0.0))
    free = moved(steps=2, proximal=0.0)
    np.testing.assert_allclose(moved(steps=2, proximal=0.4), free - 0.25 * 0.4 * one, atol=1e-6)


def test_without_privacy_a_step_is_the_mean_gradient_of_a_minibatch() -> None:
    model, batch = model_of(Recipe()), ragged_batch((2, 1, 3))
    free = Clipping(TASK, 0.3, 1e9)
    gradients = [one_subject(model, batch, subject, free) for subject in range(3)]
    names = [name for name, _ in model.named_parameters()]
    before = {name: part.detach().clone() for name, part in model.named_parameters()}
    train_round(model, batch, replace(training_of(None), batch_subjects=99), noise())
    moved = torch.cat([(dict(model.named_parameters())[name] - before[name]).ravel() for name in names])
    assert torch.allclose(moved.double(), -0.25 * torch.stack(gradients).mean(dim=0), atol=1e-6)


def test_without_privacy_minibatches_repeat_by_the_rounds_name() -> None:
    batch = ragged_batch((1,) * 20)
    runs = [
        flat(train_round(model_of(Recipe()), batch, training_of(None, steps=3, round_=number), noise()))
        for number in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_without_privacy_an_epoch_sees_every_subject_once() -> None:
    batch, slow = ragged_batch((1,) * 6), replace(training_of(None), learning_rate=1e-3)
    epoch = flat(train_round(model_of(Recipe()), batch, replace(slow, steps=3), noise()))
    at_once = flat(train_round(model_of(Recipe()), batch, replace(slow, steps=1, batch_subjects=6), noise()))
    apart = np.linalg.norm(epoch - 3 * at_once) / np.linalg.norm(3 * at_once)
    assert apart < 0.05, "equal to first order in the learning rate"


@pytest.mark.parametrize("private", [True, False])
def test_training_learns(private: bool) -> None:
    batch = ragged_batch((1,) * 40, presence=1.0)
    labels = (batch.values["ecg"][:, 0, 0] > 0).long()
    batch = replace(batch, labels={**batch.labels, TASK: labels})
    model = model_of(Recipe(kind="additive"))
    plan = replace(plan_of(noise_multiplier=0.2, steps=60), clip_norm=1.0, divisor=40.0) if private else None
    train_round(model, batch, replace(training_of(plan, steps=60), learning_rate=1.0, batch_subjects=40), noise())
    with torch.no_grad():
        right = ((model(batch).logits[:, 0] > 0).long() == labels).float().mean()
    assert right > 0.85


def test_modality_dropout_hides_by_row_and_never_everything() -> None:
    batch = ragged_batch((1,) * 400, presence=0.7)
    uniforms = np.random.default_rng(0).random(len(batch) * len(batch.mask))
    dropped = drop_modalities(batch, 0.5, uniforms)
    had = {name: seen.any(dim=1) for name, seen in batch.mask.items()}
    has = {name: seen.any(dim=1) for name, seen in dropped.mask.items()}
    some = torch.stack(list(had.values())).any(dim=0)
    assert torch.equal(torch.stack(list(has.values())).any(dim=0), some)
    for name, had_it in had.items():
        assert not (has[name] & ~had_it).any()
        assert 0.45 < float(has[name][had_it].float().mean()) < 0.8
        assert not dropped.values[name][~dropped.mask[name]].any()


def test_modality_dropout_of_a_row_depends_on_its_own_draws_only() -> None:
    batch = ragged_batch((1,) * 30)
    uniforms = np.random.default_rng(0).random((30, len(batch.mask)))
    every = drop_modalities(batch, 0.5, uniforms.ravel())
    some = torch.arange(30) % 3 == 0
    part = drop_modalities(take(batch, some), 0.5, uniforms[some.numpy()].ravel())
    assert all(torch.equal(every.mask[name][some], part.mask[name]) for name in batch.mask)


def test_modality_dropout_is_taken_from_the_private_stream_under_a_plan() -> None:
    batch = ragged_batch((1,) * 12, presence=1.0)
    training = replace(training_of(plan_of()), modality_dropout=0.5)
    updates = [flat(train_round(model_of(Recipe()), batch, training, noise(number))) for number in (0, 1)]
    assert not np.allclose(updates[0], updates[1], atol=1e-5)


def test_as_many_rows_go_through_the_model_together_as_the_machine_may() -> None:
    training = replace(training_of(plan_of()), rows=1)
    assert clipping_of(training).rows == 1
    one_by_one, together = (
        flat(train_round(model_of(Recipe()), ragged_batch((2, 1, 3)), one, noise()))
        for one in (training, replace(training, rows=0))
    )
    np.testing.assert_allclose(one_by_one, together, atol=1e-6)
