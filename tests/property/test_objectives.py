"""What a part of an objective says of itself is true: per example, one record's change moves nobody else's loss."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from client.dp import Clipping, clipped_sum, per_row_gradients
from common.compose import ConfigError, compose, validate
from common.data.batch import Batch, take
from common.models.loss import row_losses
from common.objectives import Part
from tests.example_models import ANCHOR, TASK, Recipe, model_of, part_of, ragged_batch

INFONCE = part_of(kind="infonce", modalities=["labs", "ecg", "note"])
SIGLIP = part_of(kind="siglip", modalities=["labs", "ecg"])
FROZEN = ("encoder/ecg",)
EVERY_PART = (*Recipe().all_parts, ANCHOR, INFONCE, SIGLIP)
MIXING = (INFONCE, SIGLIP)


def recipe_of(part: Part) -> Recipe:
    return Recipe(parts=() if part.kind == "task" else (part,), frozen=FROZEN)


def asking(*parts: dict[str, object]) -> list[str]:
    """What one writes on the command line for these parts; Hydra's keys have no quotes."""
    written = json.dumps(parts).replace('"', "").replace(" ", "")
    return ["experiment=folders", "data.root=here", f"objective.parts={written}"]


def others_losses(part: Part, batch: Batch) -> Tensor:
    """The losses of all rows but the first, in double precision."""
    recipe = recipe_of(part)
    model = model_of(recipe).double().train()
    values, seconds = ({key: one.double() for key, one in found.items()} for found in (batch.values, batch.seconds))
    wide = replace(batch, values=values, seconds=seconds)
    return row_losses(model, wide, task=TASK, auxiliary_weight=0.3, parts=recipe.all_parts)[1:].detach()


def changes(batch: Batch) -> list[Batch]:
    """The same rows with the first one changed: other values, another label, nothing there, a partner gone."""
    first = torch.arange(len(batch)) == 0
    wild = {name: torch.where(first[:, None, None], 5.0 - value, value) for name, value in batch.values.items()}
    label = {TASK: torch.where(first, 1 - batch.labels[TASK], batch.labels[TASK])}
    gone = {name: seen & ~first[:, None] for name, seen in batch.mask.items()}
    return [
        replace(batch, values=wild),
        replace(batch, labels=batch.labels | label),
        replace(batch, mask=gone),
        replace(batch, mask=batch.mask | {"ecg": gone["ecg"]}),
    ]


@pytest.mark.parametrize("part", EVERY_PART, ids=lambda part: part.kind)
def test_one_records_change_moves_nobody_elses_loss_just_where_the_part_says_so(part: Part) -> None:
    batch = ragged_batch((1,) * 6, presence=1.0)
    before = others_losses(part, batch)
    moved = max(float((others_losses(part, changed) - before).abs().max()) for changed in changes(batch))
    alone = others_losses(part, take(batch, torch.tensor([0, 3])))
    if part.per_example:
        assert moved < 1e-12
        assert float((alone - before[2:3]).abs()) < 1e-12, "alone as among others"
    else:
        assert moved > 1e-3, "the control: what compares rows must not pass for per example"


@pytest.mark.parametrize("part", MIXING, ids=lambda part: part.kind)
def test_what_compares_records_is_refused_under_privacy_with_the_reason(part: Part) -> None:
    run = asking({"kind": "task"}, part.model_dump())
    with pytest.raises(ConfigError, match=r"6\.5 times the clip norm \(infonce, 64 records\).*use anchor"):
        compose(run)
    config = compose([*run, "privacy=none"])
    assert [one.kind for one in config.objective.parts] == ["task", part.kind]
    smuggled = json.loads(config.model_dump_json())  # what a server would have to send
    smuggled["privacy"]["kind"] = "subject"
    with pytest.raises(ConfigError, match="compares the records of a batch"):
        validate(json.dumps(smuggled))


@pytest.mark.parametrize("part", MIXING, ids=lambda part: part.kind)
def test_what_compares_records_is_never_clipped(part: Part) -> None:
    recipe = recipe_of(part)
    model = model_of(recipe)
    with per_row_gradients(model), pytest.raises(ValueError, match="clipping bounds nobody"):
        clipped_sum(model, ragged_batch((1, 1)), Clipping(TASK, 0.3, 1.0, parts=recipe.all_parts))


def test_an_anchor_that_both_sides_could_walk_away_with_is_refused() -> None:
    run = asking({"kind": "task"}, {"kind": "anchor", "query": "labs", "target": "ecg"})
    with pytest.raises(ConfigError, match=r"model\.frozen to name encoder/ecg"):
        compose(run)
    assert compose([*run, "model.frozen=[encoder/ecg]"]).objective.parts[1].per_example
    with pytest.raises(ConfigError, match="model=transformer"):
        compose([*run, "model=additive"])


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([{"kind": "anchor", "query": "a", "target": "b"}], "one part of kind task"),
        ([{"kind": "task"}, {"kind": "task"}], "one part of kind task"),
        ([{"kind": "task"}, {"kind": "anchor", "query": "a", "target": "a"}], "two modalities"),
        ([{"kind": "task"}, {"kind": "guess"}], "objective.parts"),
        ([{"kind": "task", "weight": 0}], "objective.parts"),
    ],
)
def test_parts_that_cannot_be_are_named(parts: list[dict[str, object]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose(asking(*parts))


def test_a_weight_follows_its_schedule() -> None:
    warm, fading = (part_of(kind="task", weight=2, schedule=kind, over=4) for kind in ("warm-up", "decay"))
    assert [warm.weight_in(number) for number in (0, 1, 2, 4, 9)] == [2.0, 0.5, 1.0, 2.0, 2.0]
    assert [fading.weight_in(number) for number in (0, 1, 2, 4, 9)] == [2.0, 1.5, 1.0, 0.0, 0.0]
