"""Who may attend to whom, said once more in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.config import FusionConfig, ModelConfig
from common.data.batch import Batch, hide
from common.models.attention import allowed
from common.models.fusion import POLICIES, Fusion, Segments, pooled
from common.models.positions import time_code
from tests.example_models import Recipe, model_of, ragged_batch

# Two tokens of modality 0, one of modality 1, one of modality 2, one latent; modality 1 is the query.
SEGMENTS = Segments(np.array([0, 0, 1, 2, -1]), query=1, hybrid_layers=1)
OWN = ["##...", "##...", "..#..", "...#.", "....#"]
ALL = ["#####"] * 5
EXPECTED = {
    ("early", 0): ALL,
    ("late", 0): OWN,
    ("late", 9): OWN,
    ("hybrid", 0): OWN,
    ("hybrid", 1): ALL,
    ("bottleneck", 0): ["##..#", "##..#", "..#.#", "...##", "#####"],
    ("perceiver", 0): ["##...", "##...", "..#..", "...#.", "#####"],
    ("cross", 0): ["##...", "##...", "#####", "...#.", "#####"],
}


def test_every_policy_is_drawn_here() -> None:
    assert {kind for kind, _ in EXPECTED} == set(POLICIES)


@pytest.mark.parametrize(("kind", "layer"), EXPECTED)
def test_a_policy_says_who_reads_whom(kind: str, layer: int) -> None:
    found = POLICIES[kind](layer, SEGMENTS)
    assert ["".join("#" if cell else "." for cell in row) for row in found] == EXPECTED[kind, layer]


def test_a_row_with_nothing_to_read_reads_itself() -> None:
    may_read = allowed(np.ones((3, 3), dtype=np.bool_), torch.tensor([[False, False, False], [True, False, True]]))
    assert torch.equal(may_read[0], torch.eye(3, dtype=torch.bool))
    assert may_read[1].tolist() == [[True, False, True], [True, True, True], [True, False, True]]


def test_pooling_averages_what_is_there_and_gives_zeros_for_nothing() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pooled(tokens, mask).tolist() == [[2.0], [0.0]]


def with_labs_changed(batch: Batch) -> Batch:
    return Batch(**{**vars(batch), "values": {**batch.values, "labs": batch.values["labs"] + 1.0}})


@pytest.mark.parametrize("fusion", ["late", "hybrid"])
def test_modalities_that_never_meet_merge_only_at_the_end(fusion: str) -> None:
    """With own-modality attention in every layer, what two modalities say together is the mean of what each says."""
    config = FusionConfig.model_validate({"kind": fusion, "hybrid_layers": 1})
    size = ModelConfig.model_validate({"kind": "transformer", "width": 8, "heads": 2, "feedforward": 8, "layers": 1})
    torch.manual_seed(0)
    model = Fusion(config, size, ("a", "b"))
    tokens = {"a": torch.randn(4, 2, 8), "b": torch.randn(4, 1, 8)}
    both = {"a": torch.ones(4, 2, dtype=torch.bool), "b": torch.ones(4, 1, dtype=torch.bool)}
    alone = [model(tokens, {**both, name: torch.zeros_like(both[name])}) for name in ("a", "b")]
    assert torch.allclose(model(tokens, both), (alone[0] + alone[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("fusion", POLICIES)
def test_every_policy_reads_every_modality_also_alone(fusion: str) -> None:
    model, batch = model_of(Recipe(fusion=fusion)), hide(ragged_batch((1,) * 8, presence=1.0), ("labs",))
    assert not torch.allclose(model(batch).logits, model(with_labs_changed(batch)).logits, atol=1e-6)


def test_time_is_encoded_apart_and_second_zero_is_nothing() -> None:
    seconds = torch.tensor([[0.0, 0.5, 60.0, 3600.0]])
    code = time_code(seconds, 7)
    assert code.shape == (1, 4, 7)
    assert not code[0, 0].any()
    assert torch.cdist(code, code)[0][~torch.eye(4, dtype=torch.bool)].min() > 0.1
