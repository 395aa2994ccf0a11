"""A small model that tells a text, and records whose text follows from their values."""

from __future__ import annotations

import torch

from common.config import Config
from common.data.batch import Batch, no_values
from common.data.modalities import TextSpec
from common.data.readings import BEGIN, END, FIRST_BYTE
from common.data.schema import Schema
from common.models.loss import row_losses
from common.models.model import build_model
from common.models.transformer import TransformerModel
from tests.example_models import Recipe, config_of, part_of

TASK = "sick"
CAPTION = part_of(kind="caption", target="note")
NOTES = ("all well", "ill")
NOTE = TextSpec(kind="text", column="note", max_tokens=12)
CAPTIONS_SCHEMA = Schema.model_validate(
    {
        "modalities": {
            "labs": {"kind": "tabular", "columns": ["crp"], "indicators": False},
            "note": NOTE.model_dump(),
            "ward": {"kind": "tabular", "columns": ["beds"], "indicators": False},
        },
        "tasks": {TASK: {"kind": "binary", "column": "sick"}},
        "attributes": {},
    }
)


def captions_config() -> Config:
    """Tables and a text that is told."""
    return config_of(Recipe(parts=(CAPTION,))).model_copy(update={"data_schema": CAPTIONS_SCHEMA})


def captioned(*, seed: int, moved: float = 0.0) -> TransformerModel:
    """A model with first weights, all moved a little, or so far that texts differ."""
    model = build_model(captions_config(), CAPTIONS_SCHEMA, seed=seed)
    assert isinstance(model, TransformerModel)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(moved * torch.randn(parameter.shape, generator=random))
    return model.eval()


def sick_notes(rows: int) -> Batch:
    """Records of two kinds: every second one is ill, by its labs, its label and its note; two records a subject."""
    ill = torch.arange(rows) % 2
    values = {name: no_values(spec, rows) for name, spec in CAPTIONS_SCHEMA.modalities.items()}
    values["labs"] += (2.0 * ill - 1).view(-1, 1, 1)
    mask = {name: torch.ones(value.shape[:2], dtype=torch.bool) for name, value in values.items()}
    for row, kind in enumerate(ill.tolist()):
        tokens = [BEGIN, *(FIRST_BYTE + byte for byte in NOTES[kind].encode()), END]
        values["note"][row, : len(tokens)] = torch.tensor(tokens)
        mask["note"][row, len(tokens) :] = False
    seconds = {name: torch.zeros(seen.shape) for name, seen in mask.items()}
    return Batch(values, mask, seconds, {TASK: ill}, {}, torch.arange(rows) // 2)


def teach(model: TransformerModel, batch: Batch) -> None:
    """Train until the notes are known by heart."""
    model.train()
    optimizer, parts = torch.optim.Adam(model.parameters(), lr=0.03), captions_config().objective.parts
    for _ in range(150):
        loss = row_losses(model, batch, task=TASK, auxiliary_weight=0.0, parts=parts).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
