"""The most valuable test of the repository: what is clipped is one subject's gradient, in every model we can build.

Over every encoder, fusion policy and model kind, with several rows a subject, ragged in time, modalities missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch
from _pytest.mark import ParameterSet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client.dp import Clipping, Engine
from common.data.batch import Batch, hide
from common.models.fusion import POLICIES
from tests.encoder_models import (
    BACKBONE_CASES,
    ENCODER_CASES,
    Built,
    built,
    built_from,
    config_with_backbone,
    mixed_batch,
)
from tests.example_models import EVERY_RECIPE, TASK, Recipe, model_of, ragged_batch
from tests.reference_gradients import clipped_vector, gradients_of_rows, largest_error, one_subject, rows_alone, without

PARITY = 1e-5
ENGINES: tuple[Engine, ...] = ("bookkeeping", "opacus")
_ROUNDING = 1e-5


def _every_backbone() -> Iterator[ParameterSet]:
    """Every network, adapter, policy and head; among the fast tests, each adapter once, and every policy and head."""
    ends = list(product(POLICIES, (TASK, "grade")))
    pairs = [(network, adapter) for network, (_, fitting) in BACKBONE_CASES.items() for adapter in fitting]
    for place, pair in enumerate(pairs):
        for turn, end in enumerate(ends):
            marks = () if turn == place % len(ends) else (pytest.mark.slow,)
            yield pytest.param(*pair, *end, marks=marks)


rows_per_subject = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def _subjects(batch: Batch) -> list[int]:
    return sorted(set(batch.subjects.tolist()))


def _clip_in_the_middle(model: nn.Module, batch: Batch, recipe: Recipe) -> Clipping:
    """A clip norm that some subjects' gradients exceed and others do not."""
    free = Clipping(recipe.task, recipe.auxiliary_weight, 1e9, parts=recipe.all_parts)
    norms = [float(one_subject(model, batch, s, free).norm()) for s in _subjects(batch)]
    return replace(free, clip_norm=max(1e-3, min(1.0, sorted(norms)[len(norms) // 2])))


def _largest_shift(model: nn.Module, batch: Batch, clipping: Clipping) -> float:
    """How far, in clip norms, the sum moves at most when one subject is dropped."""
    total = clipped_vector(model, batch, clipping)
    subjects = _subjects(batch)
    shifts = [(total - clipped_vector(model, without(batch, s), clipping)).norm() for s in subjects]
    return max(float(shift) for shift in shifts) / clipping.clip_norm


def _is_the_sum_of_single_subjects(model: nn.Module, batch: Batch, clipping: Clipping) -> bool:
    single = [one_subject(model, batch, s, clipping) for s in _subjects(batch)]
    return _close(clipped_vector(model, batch, clipping), torch.stack(single).sum(dim=0))


def _close(left: Tensor, right: Tensor) -> bool:
    return bool((left - right).abs().max() <= PARITY)


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=str)
@given(rows=rows_per_subject, seed=st.integers(0, 2**31), presence=st.sampled_from([0.2, 0.6, 1.0]))
@settings(max_examples=4)
def test_every_subjects_share_of_the_sum_equals_its_gradient_computed_alone(
    recipe: Recipe, rows: tuple[int, ...], seed: int, presence: float
) -> None:
    model, batch = model_of(recipe, seed=seed), ragged_batch(rows, seed=seed, presence=presence)
    clipping = _clip_in_the_middle(model, batch, recipe)
    assert _is_the_sum_of_single_subjects(model, batch, clipping)
    total = clipped_vector(model, batch, clipping)
    for subject in _subjects(batch):
        share = total - clipped_vector(model, without(batch, subject), clipping)
        assert _close(share, one_subject(model, batch, subject, clipping))
        assert share.norm() <= clipping.clip_norm * (1 + _ROUNDING)


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=str)
def test_a_modality_that_nobody_in_the_batch_has_changes_no_claim(recipe: Recipe) -> None:
    model, batch = model_of(recipe), ragged_batch((1, 3, 2, 1))
    for keep in (("labs",), ("ecg", "note"), ()):
        seen = hide(batch, keep)
        clipping = _clip_in_the_middle(model, seen, recipe)
        assert _is_the_sum_of_single_subjects(model, seen, clipping)
        assert _largest_shift(model, seen, clipping) <= 1 + _ROUNDING


class PresentRowsOnly(nn.Module):
    """The bug: an encoder that is given only the rows which have its modality, so its rows are not the batch's rows.

    The model says exactly the same; only the per-row gradients of this encoder belong to other rows.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.argsort(~mask.any(dim=1), stable=True)  # present rows first, as if packed, the rest is padding
        tokens, _ = self.encoder(values[order], mask[order])
        return tokens[torch.argsort(order)], mask

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        return mask, seconds


def test_matching_rows_by_position_would_be_caught() -> None:
    recipe = Recipe(fusion="early")
    caught_by_parity, largest_shift = 0, 0.0
    for seed in range(10):
        model, batch = model_of(recipe, seed=seed), ragged_batch((1,) * 6, seed=seed)
        clipping = _clip_in_the_middle(model, batch, recipe)
        right = model(batch).logits
        encoders = model.get_submodule("encoders")
        encoders.add_module("<labs>", PresentRowsOnly(encoders.get_submodule("<labs>")))
        assert torch.allclose(model(batch).logits, right, atol=1e-6), "the bug must not show in what the model says"
        caught_by_parity += not _is_the_sum_of_single_subjects(model, batch, clipping)
        largest_shift = max(largest_shift, _largest_shift(model, batch, clipping))
    assert caught_by_parity >= 8
    assert largest_shift > 1.05, "and the neighbour test must see that the sensitivity is broken"


def test_clipping_rows_instead_of_subjects_would_be_caught() -> None:
    recipe = Recipe()
    model, batch = model_of(recipe), ragged_batch((6, 1, 1))
    clipping = Clipping(recipe.task, recipe.auxiliary_weight, 0.05, parts=recipe.all_parts)
    by_row = replace(batch, subjects=torch.arange(len(batch)))
    of_subject_0 = [one_subject(model, by_row, row, clipping) for row, who in enumerate(batch.subjects) if who == 0]
    assert torch.stack(of_subject_0).sum(dim=0).norm() > 2 * clipping.clip_norm
    assert _largest_shift(model, batch, clipping) <= 1 + _ROUNDING


@pytest.mark.parametrize("task", [TASK, "grade"])
@pytest.mark.parametrize("fusion", POLICIES)
@pytest.mark.parametrize("encoder", ENCODER_CASES)
def test_every_encoder_policy_and_head_gives_each_row_its_own_gradient(encoder: str, fusion: str, task: str) -> None:
    every_row_has_its_own_gradient(built(encoder, Recipe(fusion=fusion, task=task)), task)


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize(("network", "adapter", "fusion", "task"), list(_every_backbone()))
def test_every_backbone_adapter_policy_and_head_gives_each_row_its_own_gradient(
    network: str, adapter: str, fusion: str, task: str
) -> None:
    config = config_with_backbone(network, adapter, Recipe(fusion=fusion, task=task))
    every_row_has_its_own_gradient(built_from(config), task)


def every_row_has_its_own_gradient(case: Built, task: str) -> None:
    batch = mixed_batch(case.schema, (3, 1, 2, 1))
    assert 0 < batch.mask["case"].any(dim=1).sum() < len(batch), "some rows must lack the modality"
    alone = rows_alone(case.model, batch, Clipping(task, 0.3, 1.0))
    for engine in ENGINES:
        found = gradients_of_rows(case.model, batch, Clipping(task, 0.3, 1.0, engine=engine))
        assert largest_error(found, alone) < PARITY, engine
    clipping = _clip_in_the_middle(case.model, batch, Recipe(task=task))
    single = torch.stack([one_subject(case.model, batch, s, clipping) for s in _subjects(batch)])
    error = clipped_vector(case.model, batch, clipping) - single.sum(dim=0)
    assert error.norm() < PARITY * single.norm(dim=1).sum()
