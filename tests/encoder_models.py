"""A small model for each encoder, and batches in which its modality is missing, short or whole: no site, no file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from torch import nn

from common.config import Config
from common.data.batch import Batch, example_values, masked
from common.data.modalities import ModalitySpec
from common.data.schema import Schema
from common.models.encoders.options import (
    BytesOptions,
    CnnOptions,
    EncoderOptions,
    LinearOptions,
    MelOptions,
    PatchesOptions,
    VitOptions,
)
from common.models.model import build_model
from tests.example_models import SCHEMA, Recipe, config_of


def spec_of(plain: dict[str, object]) -> ModalitySpec:
    """A modality as a folder describes it."""
    found: ModalitySpec = TypeAdapter(ModalitySpec).validate_python(plain)
    return found


# No size is a multiple of what divides it, so that every encoder's last token is a part of one.
ENCODER_CASES: dict[str, tuple[ModalitySpec, EncoderOptions]] = {
    "linear": (spec_of({"kind": "tabular", "columns": ["crp", "ldh"]}), LinearOptions()),
    "bytes": (
        spec_of({"kind": "text", "column": "note", "max_tokens": 10}),
        BytesOptions(width=8, layers=1, heads=2, feedforward=12, patch=4),
    ),
    "cnn": (
        spec_of({"kind": "image", "column": "scan", "size": [11, 9], "channels": 3}),
        CnnOptions(channels=8, stages=2),
    ),
    "vit": (
        spec_of({"kind": "image", "column": "scan", "size": [11, 9]}),
        VitOptions(width=8, layers=1, heads=2, feedforward=12, patch=4),
    ),
    "mel": (
        spec_of({"kind": "audio", "column": "voice", "sample_rate": 1000, "seconds": 0.13}),
        MelOptions(mels=9, channels=8, stages=2),
    ),
    "patches": (
        spec_of({"kind": "signal", "column": "ecg", "sample_rate": 50.0, "channels": ["i", "ii"], "seconds": 0.46}),
        PatchesOptions(patch=4, channels=8, layers=1),
    ),
}
CASE = "case"
"""The modality that the encoder under test reads; a table of SCHEMA stands beside it."""


@dataclass(frozen=True)
class Built:
    """A model, and the schema that it was built for."""

    model: nn.Module
    schema: Schema


def schema_with(spec: ModalitySpec) -> Schema:
    """One modality of any kind, a table, and the tasks of SCHEMA."""
    return SCHEMA.model_copy(update={"modalities": {CASE: spec, "labs": SCHEMA.modalities["labs"]}})


def config_with(encoder: str, recipe: Recipe) -> Config:
    """A recipe's configuration with one encoder's small options."""
    config = config_of(recipe)
    spec, options = ENCODER_CASES[encoder]
    model = config.model.model_copy(update={"encoders": {CASE: options}})
    return config.model_copy(update={"model": model, "data_schema": schema_with(spec)})


def built(encoder: str, recipe: Recipe, *, seed: int = 0) -> Built:
    """A model with no weight at a special place: first weights, all moved a little."""
    schema = schema_with(ENCODER_CASES[encoder][0])
    model = build_model(config_with(encoder, recipe), schema, seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return Built(model, schema)


def mixed_batch(
    schema: Schema, rows_per_subject: tuple[int, ...], *, seed: int = 0, presence: float = 0.6, ragged: bool = True
) -> Batch:
    """Rows of any modalities in a random order, several a subject; some lack a modality, some have its first steps."""
    random = torch.Generator().manual_seed(seed)
    subjects = torch.repeat_interleave(torch.arange(len(rows_per_subject)), torch.tensor(rows_per_subject))
    subjects = subjects[torch.randperm(len(subjects), generator=random)]
    rows = len(subjects)
    values, mask, seconds = {}, {}, {}
    for name, spec in schema.modalities.items():
        steps = spec.num_steps
        lengths = torch.randint(1, steps + 1, (rows, 1), generator=random) if ragged else torch.full((rows, 1), steps)
        present = torch.rand(rows, 1, generator=random) < presence
        mask[name] = (torch.arange(steps) < lengths) & present
        values[name] = masked(example_values(spec, rows, random), mask[name])
        seconds[name] = torch.rand(rows, steps, generator=random).cumsum(dim=1)
    labels = {name: torch.randint(len(task.classes), (rows,), generator=random) for name, task in schema.tasks.items()}
    return Batch(values, mask, seconds, labels, {"sex": torch.zeros(rows, dtype=torch.int64)}, subjects)
