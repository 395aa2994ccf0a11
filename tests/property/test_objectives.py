"""What a part of an objective says of itself is true: per example, one record's change moves nobody else's loss."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from client.dp import Clipping, Engine, clipped_sum, per_row_gradients
from client.hiding import Hiding
from client.train import LocalTraining, draw_sample
from common.compose import ConfigError, compose, validate
from common.data.batch import Batch, example_values, take
from common.data.modalities import TextSpec
from common.data.pieces import num_pieces
from common.models.loss import row_losses
from common.models.model import build_model
from common.objectives import Part
from common.privacy.noise import test_noise as noise_of_test
from common.privacy.plan import PrivacyPlan
from tests.example_models import ANCHOR, SCHEMA, TASK, Recipe, config_of, model_of, part_of, ragged_batch
from tests.reference_gradients import clipped_vector, one_subject

INFONCE = part_of(kind="infonce", modalities=["labs", "ecg", "note"])
SIGLIP = part_of(kind="siglip", modalities=["labs", "ecg"])
MASKED = part_of(kind="masked_tokens", modality="labs")
CAPTION = part_of(kind="caption", target="report", layers=2, weight=0.5)
FROZEN = ("encoder/ecg",)
PRIVATE = (*Recipe().all_parts, ANCHOR, MASKED, CAPTION)
EVERY_PART = (*PRIVATE, INFONCE, SIGLIP)
REPORT = TextSpec(kind="text", column="report", max_tokens=9)
MIXING = (INFONCE, SIGLIP)
PLAN = PrivacyPlan(
    epsilon=8.0,
    delta=1e-3,
    clip_norm=1.0,
    noise_multiplier=1.0,
    sampling_rate=1.0,
    steps_per_round=1,
    rounds=1,
    divisor=1.0,
    counts=(),
)
TRAINING = LocalTraining(TASK, 0.3, 0.0, 1.0, 0.0, 0.0, 1, 1, 0, "here", 1, PLAN)


def recipe_of(part: Part) -> Recipe:
    return Recipe(parts=() if part.kind == "task" else (part,), frozen=FROZEN)


def built(part: Part) -> nn.Module:
    """A model with this part beside the task; what is told is a modality that the others do not need."""
    config = config_of(recipe_of(part))
    modalities = SCHEMA.modalities | ({"report": REPORT} if part.kind == "caption" else {})
    model = build_model(config, SCHEMA.model_copy(update={"modalities": modalities}), seed=0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return model.train()


def rows_of(rows_per_subject: tuple[int, ...]) -> Batch:
    """Rows with a report of some length and pieces of labs that are hidden."""
    batch, random = ragged_batch(rows_per_subject, presence=1.0), torch.Generator().manual_seed(5)
    report = example_values(REPORT, len(batch), random)
    lengths = torch.randint(0, REPORT.num_steps + 1, (len(batch), 1), generator=random)
    mask = torch.arange(REPORT.num_steps) < lengths
    hidden = torch.rand(len(batch), num_pieces(SCHEMA.modalities["labs"]), generator=random) < 1 / 2
    return replace(
        batch,
        values=batch.values | {"report": report * mask},
        mask=batch.mask | {"report": mask},
        seconds=batch.seconds | {"report": torch.zeros(mask.shape)},
        hidden={"labs": hidden},
    )


def asking(*parts: dict[str, object]) -> list[str]:
    """What one writes on the command line for these parts; Hydra's keys have no quotes."""
    written = json.dumps(parts).replace('"', "").replace(" ", "")
    return ["experiment=folders", "data.root=here", f"objective.parts={written}"]


def others_losses(part: Part, batch: Batch) -> Tensor:
    """The losses of all rows but the first, in double precision."""
    recipe, model = recipe_of(part), built(part).double()
    values = {key: one.double() if one.is_floating_point() else one for key, one in batch.values.items()}
    wide = replace(batch, values=values, seconds={key: one.double() for key, one in batch.seconds.items()})
    return row_losses(model, wide, task=TASK, auxiliary_weight=0.3, parts=recipe.all_parts)[1:].detach()


def changes(batch: Batch) -> list[Batch]:
    """The same rows with the first one changed: other values, another label, nothing there, a partner or more gone."""
    first = torch.arange(len(batch)) == 0
    wild = {name: torch.where(_like(first, value), 5 - value, value) for name, value in batch.values.items()}
    wild["report"] = torch.where(_like(first, wild["report"]), 7, batch.values["report"])
    label = {TASK: torch.where(first, 1 - batch.labels[TASK], batch.labels[TASK])}
    gone = {name: seen & ~first[:, None] for name, seen in batch.mask.items()}
    return [
        replace(batch, values=wild),
        replace(batch, labels=batch.labels | label),
        replace(batch, mask=gone),
        replace(batch, mask=batch.mask | {"ecg": gone["ecg"]}),
        replace(batch, hidden={name: pieces ^ _like(first, pieces) for name, pieces in batch.hidden.items()}),
    ]


def _like(rows: Tensor, tensor: Tensor) -> Tensor:
    return rows.view(-1, *(1,) * (tensor.dim() - 1))


@pytest.mark.parametrize("part", EVERY_PART, ids=lambda part: part.kind)
def test_one_records_change_moves_nobody_elses_loss_just_where_the_part_says_so(part: Part) -> None:
    batch = rows_of((1,) * 6)
    before = others_losses(part, batch)
    moved = max(float((others_losses(part, changed) - before).abs().max()) for changed in changes(batch))
    alone = others_losses(part, take(batch, torch.tensor([0, 3])))
    if part.per_example:
        assert moved < 1e-12
        assert float((alone - before[2:3]).abs()) < 1e-12, "alone as among others"
    else:
        assert moved > 1e-3, "the control: what compares rows must not pass for per example"


@pytest.mark.parametrize("engine", ["bookkeeping", "opacus"])
@pytest.mark.parametrize("part", PRIVATE, ids=lambda part: part.kind)
def test_a_parts_clipped_sum_is_that_of_its_subjects_one_by_one(part: Part, engine: Engine) -> None:
    model, batch = built(part), rows_of((2, 1, 3, 1))
    free = Clipping(TASK, 0.3, 1e9, engine=engine, parts=recipe_of(part).all_parts)
    norms = sorted(float(one_subject(model, batch, subject, free).norm()) for subject in range(4))
    for clip_norm in (norms[0] / 2, norms[2], 2 * norms[3]):
        clipping = replace(free, clip_norm=clip_norm)
        expected = torch.stack([one_subject(model, batch, subject, clipping) for subject in range(4)]).sum(dim=0)
        assert float((clipped_vector(model, batch, clipping) - expected).abs().max()) < 1e-5 * max(1.0, clip_norm)


def test_a_caption_is_told_from_what_was_before_and_never_read() -> None:
    model, batch = built(CAPTION), rows_of((1,) * 4)
    other = replace(batch, values=batch.values | {"report": torch.full_like(batch.values["report"], 9)})
    assert torch.equal(model(batch).logits, model(other).logits), "the answer does not know the report"
    told = model(batch).parts[1]
    text = batch.values["report"].clone()
    text[:, 5:] = 11
    later = model(replace(batch, values=batch.values | {"report": text})).parts[1]
    assert torch.allclose(told.answers[:, :6], later.answers[:, :6], atol=1e-6), "no byte knows a later one"
    assert not torch.allclose(told.answers[:, 6:], later.answers[:, 6:], atol=1e-3)
    lengths = batch.mask["report"].sum(dim=1)
    ends = torch.where(lengths > 0, (lengths + 1).clamp(max=REPORT.num_steps), 0)
    assert told.counted.sum(dim=1).tolist() == ends.tolist(), "a text is told with its end; no text, nothing to tell"


def test_what_is_hidden_is_drawn_anew_each_step_from_the_private_stream_and_asked_for_alone() -> None:
    hiding = Hiding(pieces=(("labs", num_pieces(SCHEMA.modalities["labs"]), 0.4),))
    batch = ragged_batch((1,) * 300)
    training = replace(TRAINING, hiding=hiding, parts=recipe_of(MASKED).all_parts)
    noise = noise_of_test(3, "here", 1, "training")
    first, again, second = (draw_sample(batch, training, noise, step).hidden["labs"] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.float().mean() == pytest.approx(0.4, abs=0.05)
    assert not torch.equal(
        first, draw_sample(batch, training, noise_of_test(4, "here", 1, "training"), 0).hidden["labs"]
    )
    model, rows = built(MASKED), rows_of((1,) * 5)
    told = model(rows).parts[1]
    assert not (told.counted & ~rows.hidden["labs"]).any()


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
    run = asking({"kind": "task"}, {"kind": "masked_tokens", "modality": "ecg"})
    with pytest.raises(ConfigError, match="a frozen one has read them before"):
        compose([*run, "model.frozen=[encoder/ecg]"])
    with pytest.raises(ConfigError, match="reads records once, whole"):
        compose([*run, "model.encoders.ecg.kind=minilm"])
    compose([*run, "model.encoders.ecg={kind: minilm, adapter: {kind: lora}}"])


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([{"kind": "anchor", "query": "a", "target": "b"}], "one part of kind task"),
        ([{"kind": "task"}, {"kind": "task"}], "one part of kind task"),
        ([{"kind": "task"}, {"kind": "anchor", "query": "a", "target": "a"}], "two modalities"),
        ([{"kind": "task"}, {"kind": "guess"}], "objective.parts"),
        ([{"kind": "task", "weight": 0}], "objective.parts"),
        ([{"kind": "task"}, {"kind": "caption", "target": "a"}, {"kind": "caption", "target": "a"}], "one caption a"),
        (
            [{"kind": "task"}, {"kind": "caption", "target": "a"}, {"kind": "masked_tokens", "modality": "a"}],
            "a is told by a caption, so masked_tokens may not read it",
        ),
    ],
)
def test_parts_that_cannot_be_are_named(parts: list[dict[str, object]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose(asking(*parts))


def test_a_weight_follows_its_schedule() -> None:
    warm, fading = (part_of(kind="task", weight=2, schedule=kind, over=4) for kind in ("warm-up", "decay"))
    assert [warm.weight_in(number) for number in (0, 1, 2, 4, 9)] == [2.0, 0.5, 1.0, 2.0, 2.0]
    assert [fading.weight_in(number) for number in (0, 1, 2, 4, 9)] == [2.0, 1.5, 1.0, 0.0, 0.0]


def test_rounds_in_which_every_part_has_faded_are_refused() -> None:
    fading: dict[str, object] = {"kind": "task", "schedule": "decay", "over": 4}
    assert compose([*asking(fading), "rounds=3"]).objective.parts[0].weight_in(3) > 0
    with pytest.raises(ConfigError, match="every weight is 0 by round 4"):
        compose([*asking(fading), "rounds=4"])
    lasting: dict[str, object] = {"kind": "anchor", "query": "labs", "target": "ecg"}
    compose([*asking(fading, lasting), "rounds=4", "model.frozen=[encoder/ecg]"])
