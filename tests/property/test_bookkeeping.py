"""The engine's sum is that of each subject's clipped gradient, and no subject moves it by more than the clip norm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.bookkeeping.rules import RULES
from tests.layer_models import LAYERS, Missing, layer_model, one_at_a_time, summed, values_of

CLIP_NORM = 0.5
whose = st.lists(st.integers(-1, 4), min_size=8, max_size=8).filter(lambda found: max(found) >= 0)


@pytest.mark.parametrize("name", LAYERS)
@given(subjects=whose, seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_the_sum_is_that_of_each_subject_alone_in_float64(name: str, subjects: list[int], seed: int) -> None:
    model, values, index = layer_model(name, seed=seed), values_of(seed=seed), torch.tensor(subjects)
    alone = one_at_a_time(model, values, index, 1e9)
    # In the middle, some are clipped and some are not: a gradient that is clipped anyhow may have any length before.
    clip_norm = float(alone.norm(dim=1).median().clamp(min=1e-3))
    expected = one_at_a_time(model, values, index, clip_norm).sum(dim=0)
    assert (summed(model, values, index, clip_norm) - expected).abs().max() <= 1e-5 * max(1.0, clip_norm)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", LAYERS)
@given(subjects=whose, seed=st.integers(0, 1000))
@settings(max_examples=5)
def test_dropping_any_subject_moves_the_sum_by_at_most_the_clip_norm(
    name: str, scale: float, half: bool, subjects: list[int], seed: int
) -> None:
    """With huge weights, and with tokens that are huge and cancel within a subject."""
    model, values, index = layer_model(name, seed=seed), values_of(seed=seed), torch.tensor(subjects)
    values[:, 1::2] = -values[:, 0:-1:2] * (1 + 1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        whole = summed(model, values * scale, index, CLIP_NORM)
        for subject in set(subjects) - {-1}:
            rest = torch.where(index == subject, -1, index)
            gone = torch.where((index == subject).view(-1, 1, 1), torch.zeros(()), values)
            moved = (whole - summed(model, gone * scale, rest, CLIP_NORM)).norm()
            assert moved <= CLIP_NORM * (1 + 1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_another_subjects_contribution_is_the_same_bits_without_one(name: str) -> None:
    model, values, index = layer_model(name), values_of(), torch.tensor([0, 1, 2, 1, 0, 3, 3, 4])
    for subject in range(5):
        only = torch.where(index == subject, index, -1)
        alone = summed(model, values, only, CLIP_NORM)
        for other in set(range(5)) - {subject}:
            gone = torch.where((index == other).view(-1, 1, 1), torch.zeros(()), values)
            assert torch.equal(summed(model, gone, only, CLIP_NORM), alone)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", LAYERS)
def test_a_subject_that_is_not_finite_is_as_if_it_were_nobody(name: str, bad: float) -> None:
    model, values, index = layer_model(name), values_of(), torch.tensor([0, 1, 2, 1, 0, 3, 3, 4])
    poisoned = torch.where((index == 1).view(-1, 1, 1), torch.tensor(bad), values)
    poisoned[:, 0, 0] = values[:, 0, 0]  # whether a modality is there
    assert torch.equal(
        summed(model, poisoned, index, CLIP_NORM), summed(model, values, torch.where(index == 1, -1, index), CLIP_NORM)
    )


@pytest.mark.parametrize("token_rich", [False, True])
def test_rows_that_lack_a_modality_cost_nothing_but_the_last_chunks_filling(token_rich: bool) -> None:
    model, values = Missing(token_rich=token_rich), values_of()
    values[:, 0, 0] = torch.tensor([1.0, -1, 1, -1, -1, 1, -1, -1])
    summed(model, values, torch.arange(8), CLIP_NORM)
    assert model.seen == 4, "3 rows of 8, in chunks of 2"


def test_every_rule_has_a_model_here() -> None:
    built = {type(module) for name in LAYERS for module in layer_model(name).modules()}
    assert set(RULES) <= built
