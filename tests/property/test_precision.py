"""In bfloat16 a row's gradient is still its own: coarser than in float32, bounded all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from client.dp import Clipping
from common.compose import ConfigError, validate
from common.config import Config
from common.data.batch import Batch
from tests.encoder_models import (
    BACKBONE_CASES,
    ENCODER_CASES,
    built_from,
    config_with,
    config_with_backbone,
    mixed_batch,
)
from tests.example_models import TASK, Recipe
from tests.reference_gradients import clipped_vector, gradients_of_rows, largest_error, rows_alone, without

CLIPPING = Clipping(TASK, 0.3, 0.05)


def in_bfloat16(config: Config) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"precision": "bfloat16"})})


def stays_bounded(config: Config) -> None:
    exact, coarse = built_from(config), built_from(in_bfloat16(config))
    batch = mixed_batch(exact.schema, (2, 1, 3, 1))
    alone, found = rows_alone(exact.model, batch, CLIPPING), gradients_of_rows(coarse.model, batch, CLIPPING)
    assert found.dtype == torch.float32
    assert 1e-6 < largest_error(found, alone) < 0.1, "coarser, and of the same rows"
    total = clipped_vector(coarse.model, batch, CLIPPING)
    for subject in range(4):
        moved = total - clipped_vector(coarse.model, without(batch, subject), CLIPPING)
        assert moved.norm() <= CLIPPING.clip_norm * (1 + 1e-6)


@pytest.mark.parametrize("encoder", ENCODER_CASES)
def test_no_subject_moves_the_sum_beyond_the_clip_norm(encoder: str) -> None:
    stays_bounded(config_with(encoder, Recipe(layers=2)))


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize("adapter", ["lora", "bottleneck"])
@pytest.mark.parametrize("network", [name for name, (_, fitting) in BACKBONE_CASES.items() if "lora" in fitting])
def test_nor_does_one_with_an_adapter_inside(network: str, adapter: str) -> None:
    stays_bounded(config_with_backbone(network, adapter, Recipe()))


@pytest.mark.parametrize("encoder", ENCODER_CASES)
def test_what_is_computed_again_gives_the_same_gradients_and_keeps_less(encoder: str) -> None:
    config = config_with(encoder, Recipe(layers=3))
    kept, again = built_from(config), built_from(recomputed(config))
    batch = mixed_batch(kept.schema, (2, 1, 3, 1))
    assert torch.allclose(clipped_vector(again.model, batch, CLIPPING), clipped_vector(kept.model, batch, CLIPPING))
    assert numbers_kept(again.model, batch) < numbers_kept(kept.model, batch) / 3


def numbers_kept(model: nn.Module, batch: Batch) -> int:
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(batch)
    return sum(sizes)


def recomputed(config: Config) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"recompute": True})})


@pytest.mark.parametrize("change", [in_bfloat16, recomputed])
def test_opacus_is_refused_for_what_it_does_not_know(change: Callable[[Config], Config]) -> None:
    config = change(config_with("bytes", Recipe()))
    config = config.model_copy(update={"privacy": config.privacy.model_copy(update={"engine": "opacus"})})
    with pytest.raises(ConfigError, match=r"model\.recompute need privacy\.engine=bookkeeping"):
        validate(config.model_dump_json())
