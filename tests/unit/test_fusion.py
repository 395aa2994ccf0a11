"""Who may attend to whom, said once more in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import FusionConfig, ModelConfig
from common.data.batch import Batch, hide
from common.models.attention import or_itself
from common.models.fusion import POLICIES, Fusion, Segments, mean_of_modalities, pooled
from common.models.positions import time_code
from tests.encoder_models import spec_of
from tests.example_models import SCHEMA, Recipe, model_of, ragged_batch

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
    mask, everyone = torch.tensor([[False, False, False], [True, False, True]]), torch.arange(3)
    may_read = or_itself(mask.unsqueeze(1), everyone, everyone)
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
    model = Fusion(config, size, dict.fromkeys(("a", "b"), SCHEMA.modalities["labs"]))
    tokens = {"a": torch.randn(4, 2, 8), "b": torch.randn(4, 1, 8)}
    when = {name: torch.zeros(tokens[name].shape[:2]) for name in tokens}
    both = {"a": torch.ones(4, 2, dtype=torch.bool), "b": torch.ones(4, 1, dtype=torch.bool)}
    alone = [model(tokens, {**both, name: torch.zeros_like(both[name])}, when) for name in ("a", "b")]
    assert torch.allclose(model(tokens, both, when), (alone[0] + alone[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("fusion", POLICIES)
def test_every_policy_reads_every_modality_also_alone(fusion: str) -> None:
    model, batch = model_of(Recipe(fusion=fusion)), hide(ragged_batch((1,) * 8, presence=1.0), ("labs",))
    assert not torch.allclose(model(batch).logits, model(with_labs_changed(batch)).logits, atol=1e-6)


SIGNAL = spec_of({"kind": "signal", "column": "x", "sample_rate": 10, "channels": ["x"]})
SOME_OF_EACH = {"labs": SCHEMA.modalities["labs"], "ecg": SIGNAL, "ppg": SIGNAL}
LENGTHS = {"labs": 2, "ecg": 5, "ppg": 3}


@dataclass(frozen=True)
class Scene:
    """A fusion transformer and tokens of three modalities, some of them missing."""

    fusion: Fusion
    tokens: dict[str, Tensor]
    masks: dict[str, Tensor]
    seconds: dict[str, Tensor]

    def fused(self) -> Tensor:
        return cast("Tensor", self.fusion(self.tokens, self.masks, self.seconds))


def scene(kind: str, layers: int, window: float | None) -> Scene:
    config = FusionConfig.model_validate(
        {"kind": kind, "latents": 3, "query": "ecg", "hybrid_layers": 1, "window_seconds": window}
    )
    size = ModelConfig.model_validate(
        {"kind": "transformer", "width": 8, "heads": 2, "feedforward": 8, "layers": layers}
    )
    torch.manual_seed(0)
    tokens = {name: torch.randn(6, length, 8) for name, length in LENGTHS.items()}
    masks = {name: torch.rand(6, length) < 0.6 for name, length in LENGTHS.items()}
    masks["ppg"][0] = False
    for mask in masks.values():
        mask[1] = False
    seconds = {name: 10 * torch.rand(6, length) for name, length in LENGTHS.items()}
    return Scene(Fusion(config, size, SOME_OF_EACH), tokens, masks, seconds)


def naively(case: Scene, kind: str, window: float | None) -> Tensor:
    """The twin: every token reads in every layer, and one mask of all tokens by all tokens says whom."""
    latents, rows = case.fusion.num_latents, 6
    owner = np.repeat([0, 1, 2, -1], [*LENGTHS.values(), latents])
    parts, mask, when = ([table[name] for name in LENGTHS] for table in (case.tokens, case.masks, case.seconds))
    if latents:
        parts.append(case.fusion.latents(torch.arange(latents).repeat(rows, 1)))
        mask.append(torch.ones(rows, latents, dtype=torch.bool))
        when.append(torch.zeros(rows, latents))
    seconds, together = torch.cat(when, dim=1), torch.cat(parts, dim=1)
    timed = torch.from_numpy((owner == 1) | (owner == 2))
    near = torch.ones(rows, len(owner), len(owner), dtype=torch.bool)
    if window is not None:
        near = (seconds.unsqueeze(2) - seconds.unsqueeze(1)).abs() <= window
        near |= ~(timed.unsqueeze(1) & timed.unsqueeze(0))
    for layer, block in enumerate(case.fusion.layers):
        policy = torch.from_numpy(POLICIES[kind](layer, Segments(owner, query=1, hybrid_layers=1)))
        may_read = policy & torch.cat(mask, dim=1).unsqueeze(1) & near
        together = block(together, may_read | torch.eye(len(owner), dtype=torch.bool))
    together = cast("Tensor", case.fusion.norm(together))
    if latents:
        return together[:, -latents:].mean(dim=1)
    return mean_of_modalities(torch.split(together, list(LENGTHS.values()), dim=1), mask)


@pytest.mark.parametrize("window", [None, 2.0])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", POLICIES)
def test_reading_by_groups_equals_one_mask_over_all_tokens(kind: str, layers: int, window: float | None) -> None:
    case = scene(kind, layers, window)
    assert torch.allclose(case.fused(), naively(case, kind, window), atol=1e-5)


@pytest.mark.parametrize("kind", POLICIES)
def test_a_time_window_changes_what_is_said_and_a_wide_one_does_not(kind: str) -> None:
    free = scene(kind, 3, None).fused()
    assert not torch.allclose(scene(kind, 3, 2.0).fused(), free, atol=1e-4)
    assert torch.equal(scene(kind, 3, 11.0).fused(), free)


def test_a_time_window_is_for_what_has_a_time() -> None:
    """Moved by hours, a table says the same; a signal is out of the others' reach."""
    case = scene("early", 1, 2.0)
    later = {name: {**case.seconds, name: case.seconds[name] + 9e3} for name in ("labs", "ppg")}
    assert torch.equal(replace(case, seconds=later["labs"]).fused(), case.fused())
    assert not torch.allclose(replace(case, seconds=later["ppg"]).fused(), case.fused(), atol=1e-4)


@pytest.mark.parametrize(("kind", "queries"), [("perceiver", 3), ("bottleneck", 3), ("cross", 1), ("early", 10)])
def test_only_those_ask_in_the_last_layer_whose_answer_is_read(kind: str, queries: int) -> None:
    case, asked = scene(kind, 2, None), []
    for layer in case.fusion.layers:
        layer.get_submodule("query").register_forward_hook(lambda _part, given, _out: asked.append(given[0].shape[1]))
    case.fused()
    assert asked == [10 + case.fusion.num_latents, queries]


def test_time_is_encoded_apart_and_second_zero_is_nothing() -> None:
    seconds = torch.tensor([[0.0, 0.5, 60.0, 3600.0]])
    code = time_code(seconds, 7)
    assert code.shape == (1, 4, 7)
    assert not code[0, 0].any()
    assert torch.cdist(code, code)[0][~torch.eye(4, dtype=torch.bool)].min() > 0.1
