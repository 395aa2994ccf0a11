"""The models: the same everywhere, blind to what is masked, and with an answer for everybody."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from common.blocks import blocks_of, flatten
from common.data.batch import hide, take
from common.models.loss import per_example_loss, row_losses, scores
from common.models.model import build_model
from common.models.outputs import Outputs
from tests.example_models import EVERY_RECIPE, SCHEMA, Recipe, config_of, model_of, ragged_batch

every_recipe = pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=str)


@every_recipe
def test_logits_have_the_tasks_width_and_are_finite_for_everybody(recipe: Recipe) -> None:
    model, batch = model_of(recipe), ragged_batch((2, 1, 3))
    for keep in (tuple(SCHEMA.modalities), ("labs",), ()):
        outputs = model(hide(batch, keep))
        assert outputs.logits.shape == (6, SCHEMA.tasks[recipe.task].num_logits)
        assert torch.isfinite(outputs.logits).all()
        for name, logits in outputs.auxiliary.items():
            assert logits.shape == outputs.logits.shape
            assert torch.equal(outputs.auxiliary_present[name], hide(batch, keep).mask[name].any(dim=1))


@every_recipe
def test_a_row_is_answered_alone_as_among_others(recipe: Recipe) -> None:
    model, batch = model_of(recipe), ragged_batch((2, 1, 3))
    together = model(batch).logits
    for row in range(len(batch)):
        alone = model(take(batch, torch.tensor([row]))).logits
        assert torch.allclose(alone[0], together[row], atol=1e-5)


@every_recipe
def test_what_is_masked_is_never_read(recipe: Recipe) -> None:
    model, batch = model_of(recipe), ragged_batch((2, 1, 3), presence=0.5)
    written = {name: torch.where(batch.mask[name].unsqueeze(-1), value, 7.0) for name, value in batch.values.items()}
    later = {name: torch.where(batch.mask[name], when, 1e3) for name, when in batch.seconds.items()}
    scribbled = replace(batch, values=written, seconds=later)
    left, right = model(batch), model(scribbled)
    assert torch.allclose(left.logits, right.logits, atol=1e-6)
    for name, logits in left.auxiliary.items():
        present = left.auxiliary_present[name]
        assert torch.allclose(logits[present], right.auxiliary[name][present], atol=1e-6)


@every_recipe
def test_what_is_not_masked_is_read(recipe: Recipe) -> None:
    model, batch = model_of(recipe), ragged_batch((1, 1, 1), presence=1.0)
    for name in SCHEMA.modalities:
        changed = replace(batch, values={**batch.values, name: batch.values[name] + 1.0})
        assert not torch.allclose(model(batch).logits, model(changed).logits, atol=1e-6)


@every_recipe
def test_every_parameter_gets_a_gradient_in_every_batch(recipe: Recipe) -> None:
    model = model_of(recipe)
    for keep in (tuple(SCHEMA.modalities), ("labs",), ()):
        batch = hide(ragged_batch((2, 1)), keep)
        weight, parts = recipe.auxiliary_weight, recipe.all_parts
        loss = row_losses(model, batch, task=recipe.task, auxiliary_weight=weight, parts=parts)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(loss.sum(), trained, allow_unused=True)
        assert all(part is not None for part in found)


@every_recipe
def test_first_weights_depend_on_seed_and_name_only(recipe: Recipe) -> None:
    config = config_of(recipe)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build_model(config, SCHEMA, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = build_model(config, SCHEMA, seed=5), build_model(config, SCHEMA, seed=6)
    smaller = SCHEMA.model_copy(update={"modalities": {key: SCHEMA.modalities[key] for key in ("ecg", "labs")}})
    fewer = build_model(config, smaller, seed=5)
    vectors = flatten(one, blocks_of(one))
    for block, vector in flatten(again, blocks_of(again)).items():
        assert (vector == vectors[block]).all()
    for block, vector in flatten(fewer, blocks_of(fewer)).items():
        assert (vector == vectors[block]).all(), "one more modality moves no other part"
    if recipe.kind == "transformer":
        assert any((vector != vectors[block]).any() for block, vector in flatten(other, blocks_of(other)).items())


def test_the_additive_model_starts_at_even_odds() -> None:
    model = build_model(config_of(Recipe(kind="additive")), SCHEMA, seed=0)
    assert (scores(model(ragged_batch((2, 1)))) == 0.5).all()


def test_an_additive_logit_is_the_sum_of_its_modalities() -> None:
    model, batch = model_of(Recipe(kind="additive")), ragged_batch((2, 1, 1))
    nothing = model(hide(batch, ())).logits
    parts = [model(hide(batch, (name,))).logits - nothing for name in SCHEMA.modalities]
    assert torch.allclose(nothing + torch.stack(parts).sum(dim=0), model(batch).logits, atol=1e-5)


def test_a_task_that_is_not_there_is_refused() -> None:
    config = config_of(Recipe(task="sickness"))
    with pytest.raises(ValueError, match=r"objective\.task must be one of sick, grade, stay, findings, got 'sickness'"):
        build_model(config, SCHEMA, seed=0)


def test_a_cross_query_that_is_not_there_is_refused() -> None:
    config = config_of(Recipe(fusion="cross"))
    config = config.model_copy(update={"fusion": config.fusion.model_copy(update={"query": "smell"})})
    with pytest.raises(ValueError, match=r"fusion\.query must be one of ecg, labs, note, got 'smell'"):
        build_model(config, SCHEMA, seed=0)


def outputs_of(logits: torch.Tensor) -> Outputs:
    return Outputs(logits, {}, {})


def test_scores_are_chances() -> None:
    assert scores(outputs_of(torch.tensor([[0.0], [100.0]]))).flatten().tolist() == [0.5, 1.0]
    assert torch.allclose(scores(outputs_of(torch.randn(5, 3))).sum(dim=1), torch.ones(5))


def test_an_unknown_label_costs_nothing_and_an_auxiliary_loss_needs_its_modality() -> None:
    logits, labels = torch.zeros(3, 1), torch.tensor([1, 0, -1])
    plain = per_example_loss(outputs_of(logits), labels, auxiliary_weight=0.5)
    assert torch.allclose(plain, torch.tensor([1.0, 1.0, 0.0]) * torch.log(torch.tensor(2.0)))
    sure = {"labs": torch.full((3, 1), 30.0), "ecg": torch.full((3, 1), -30.0)}
    present = {"labs": torch.tensor([True, False, True]), "ecg": torch.tensor([False, True, True])}
    right = per_example_loss(Outputs(logits, sure, present), labels, auxiliary_weight=0.5)
    assert torch.allclose(right, plain, atol=1e-6), "each row has only the modality that is right about it"
    wrong = {"labs": present["ecg"], "ecg": present["labs"]}
    loss = per_example_loss(Outputs(logits, sure, wrong), labels, auxiliary_weight=0.5)
    assert torch.allclose(loss[:2], plain[:2] + 0.5 * 30.0)
    assert loss[2] == 0


def test_an_unknown_number_or_label_costs_nothing() -> None:
    numbers = per_example_loss(outputs_of(torch.full((2, 1), 0.5)), torch.tensor([-0.5, math.nan]), auxiliary_weight=0)
    assert numbers.tolist() == [0.5, 0.0]
    labels = torch.tensor([[1, -1, -1], [0, 1, -1], [-1, -1, -1]])
    logits = torch.tensor([[0.0, 9.0, 9.0], [0.0, 0.0, 9.0], [5.0, 5.0, 5.0]], requires_grad=True)
    loss = per_example_loss(outputs_of(logits), labels, auxiliary_weight=0)
    assert torch.allclose(loss, torch.tensor([1.0, 1.0, 0.0]) * math.log(2)), "the mean over the labels that are known"
    assert (torch.autograd.grad(loss.sum(), logits)[0][labels < 0] == 0).all()


def test_answers_are_chances_of_every_label_and_numbers_within_the_range() -> None:
    logits = torch.tensor([[0.0, 100.0], [-100.0, 0.0]])
    assert scores(outputs_of(logits), "multilabel").tolist() == [[0.5, 1.0], [0.0, 0.5]]
    assert scores(outputs_of(torch.tensor([[0.25], [7.0]])), "regression").flatten().tolist() == [0.25, 1.0]


def test_the_trained_task_is_the_configured_one() -> None:
    assert list(model_of(Recipe(task="grade")).get_submodule("heads")._modules) == ["<grade>"]
