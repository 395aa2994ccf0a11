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
from common.models.backbones.files import recorded
from common.models.backbones.options import BottleneckOptions, HuggingFaceOptions, LoraOptions
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
from common.releases import schema_of
from tests.example_models import SCHEMA, Recipe, config_of


def spec_of(plain: dict[str, object]) -> ModalitySpec:
    """A modality as a folder describes it."""
    found: ModalitySpec = TypeAdapter(ModalitySpec).validate_python(plain)
    return found


# No size is a multiple of what divides it, so that every encoder's last token is a part of one.
ENCODER_CASES: dict[str, tuple[ModalitySpec, EncoderOptions]] = {
    "linear": (
        spec_of({"kind": "tabular", "columns": ["crp", "ldh"], "bounds": {"crp": [-5, 5], "ldh": [-5, 5]}}),
        LinearOptions(),
    ),
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
ADAPTERS: dict[str, LoraOptions | BottleneckOptions | None] = {
    "frozen": None,
    "lora": LoraOptions(rank=2, freeze_a=False),
    "lora-b": LoraOptions(rank=2),
    "bottleneck": BottleneckOptions(width=3),
}
_TEXT: dict[str, object] = {"kind": "text", "column": "note", "max_tokens": 14}
_IMAGE: dict[str, object] = {"kind": "image", "column": "scan", "size": [11, 9]}
_SOUND: dict[str, object] = {"kind": "audio", "column": "voice", "sample_rate": 16000, "seconds": 0.06}
# Network (its folder comes first) -> what it reads, and the adapters that it has linear maps for.
BACKBONE_CASES: dict[str, tuple[ModalitySpec, tuple[str, ...]]] = {
    "bert": (spec_of(_TEXT), tuple(ADAPTERS)),
    "clip text": (spec_of(_TEXT), tuple(ADAPTERS)),
    "clip image": (spec_of(_IMAGE), tuple(ADAPTERS)),
    "vit": (spec_of(_IMAGE), tuple(ADAPTERS)),
    "resnet": (spec_of(_IMAGE), ("frozen",)),
    "wav2vec2": (spec_of(_SOUND), tuple(ADAPTERS)),
    "ast": (spec_of(_SOUND), tuple(ADAPTERS)),
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
    return _with_options(*ENCODER_CASES[encoder], recipe)


def config_with_backbone(network: str, adapter: str, recipe: Recipe) -> Config:
    """A recipe's configuration with a tiny pretrained network, which the fixture `pretrained` has written."""
    options = HuggingFaceOptions(folder=network.split(maxsplit=1)[0], adapter=ADAPTERS[adapter])
    config = _with_options(BACKBONE_CASES[network][0], options, recipe)
    return config.model_copy(update={"model": recorded(config.model)})


def _with_options(spec: ModalitySpec, options: EncoderOptions, recipe: Recipe) -> Config:
    config = config_of(recipe)
    model = config.model.model_copy(update={"encoders": {CASE: options}})
    return config.model_copy(update={"model": model, "data_schema": schema_with(spec)})


def built(encoder: str, recipe: Recipe, *, seed: int = 0) -> Built:
    """A model with no weight at a special place: first weights, all moved a little."""
    return built_from(config_with(encoder, recipe), seed=seed)


def built_from(config: Config, *, seed: int = 0) -> Built:
    """The same for any configuration whose schema is filled in; what is frozen stays as it was loaded."""
    schema = schema_of(config)
    model = build_model(config, schema, seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (part for part in model.parameters() if part.requires_grad):
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
