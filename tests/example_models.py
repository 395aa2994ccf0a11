"""Small models and ragged batches of every kind, for tests: no site, no file."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from torch import nn

from common.config import Config
from common.data.batch import Batch
from common.data.labels import example_labels
from common.data.schema import Schema
from common.models.fusion import POLICIES
from common.models.model import build_model
from common.objectives import TASK_ONLY, Part

TASK = "sick"
SCHEMA = Schema.model_validate(
    {
        "modalities": {
            "ecg": {"kind": "tabular", "columns": ["rate", "qt"], "bounds": {"rate": [-5, 5], "qt": [-5, 5]}},
            "labs": {
                "kind": "tabular",
                "columns": ["crp", "ldh"],
                "categorical": {"blood": ["a", "b", "o"]},
                "bounds": {"crp": [-5, 5], "ldh": [-5, 5]},
            },
            "note": {"kind": "tabular", "categorical": {"word": ["yes", "no"]}},
        },
        "tasks": {
            TASK: {"kind": "binary", "column": "sick"},
            "grade": {"kind": "multiclass", "column": "grade", "classes": ["low", "middle", "high"]},
            "stay": {"kind": "regression", "column": "stay", "bounds": [0, 30]},
            "findings": {"kind": "multilabel", "columns": ["fever", "edema", "rash"]},
        },
        "attributes": {"sex": {"column": "sex", "levels": ["female", "male"]}},
    }
)


@dataclass(frozen=True)
class Recipe:
    """What to build: the model's kind, its fusion policy and depth, the task, auxiliary heads, further parts.

    `parts` are an objective's, besides the task's own; `frozen` are encoders.
    """

    kind: str = "transformer"
    fusion: str = "early"
    layers: int = 1
    task: str = TASK
    auxiliary_weight: float = 0.3
    parts: tuple[Part, ...] = ()
    frozen: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name the recipe in pytest's output."""
        return f"{self.kind}-{self.fusion}-{self.layers}-{self.task}-{self.auxiliary_weight}" + "".join(
            f"-{part.kind}" for part in self.parts
        )

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The objective's parts, the task's own first."""
        return (*TASK_ONLY, *self.parts)


def part_of(**entry: object) -> Part:
    """A part of an objective, as a configuration has it."""
    return TypeAdapter[Part](Part).validate_json(json.dumps(entry))


ANCHOR = part_of(kind="anchor", query="labs", target="ecg", weight=0.7, bank=5)
EVERY_RECIPE = (
    Recipe(fusion="hybrid", parts=(ANCHOR,), frozen=("encoder/ecg",)),
    Recipe(kind="additive"),
    Recipe(kind="additive", task="grade"),
    Recipe(kind="additive", task="stay"),
    Recipe(fusion="hybrid", task="stay"),
    Recipe(fusion="bottleneck", task="findings"),
    *(Recipe(fusion=fusion) for fusion in POLICIES),
    *(Recipe(fusion=fusion, layers=2, task="grade", auxiliary_weight=0.0) for fusion in POLICIES),
)


def config_of(recipe: Recipe) -> Config:
    """The smallest configuration of a recipe; without privacy where a part of it allows none."""
    kind = "subject" if all(part.per_example for part in recipe.parts) else "none"
    return Config.model_validate(
        {
            "experiment": "example",
            "rounds": 1,
            "data": {"kind": "heart", "normalisation": "none"},
            "model": {
                "kind": recipe.kind,
                "width": 8,
                "layers": recipe.layers,
                "heads": 2,
                "feedforward": 12,
                "frozen": recipe.frozen,
            },
            "fusion": {"kind": recipe.fusion, "latents": 2},
            "objective": {
                "kind": "classification",
                "task": recipe.task,
                "auxiliary_weight": recipe.auxiliary_weight,
                "parts": tuple(part.model_dump() for part in recipe.all_parts),
                "learning_rate": 0.5,
            },
            "privacy": {"kind": kind, "declared_subjects": 10},
            "secagg": {"kind": "none"},
            "federation": {"server_optimizer": {"kind": "sgd"}},
            "engine": {"kind": "inprocess"},
        }
    )


def model_of(recipe: Recipe, *, seed: int = 0) -> nn.Module:
    """A model with no weight at a special place: first weights, all moved a little."""
    model = build_model(config_of(recipe), SCHEMA, seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return model


def ragged_batch(rows_per_subject: tuple[int, ...], *, seed: int = 0, presence: float = 0.6, time: int = 3) -> Batch:
    """Rows in a random order, several a subject, of random lengths in time, with modalities missing at random."""
    random = torch.Generator().manual_seed(seed)
    subjects = torch.repeat_interleave(torch.arange(len(rows_per_subject)), torch.tensor(rows_per_subject))
    subjects = subjects[torch.randperm(len(subjects), generator=random)]
    values, mask, seconds = {}, {}, {}
    for name, spec in SCHEMA.tables.items():
        shape = (len(subjects), time)
        present = torch.rand(len(subjects), 1, generator=random) < presence
        lengths = torch.randint(1, time + 1, (len(subjects), 1), generator=random)
        mask[name] = (torch.arange(time) < lengths) & present
        drawn = 3 * torch.randn(*shape, spec.num_features, generator=random)
        values[name] = drawn * mask[name].unsqueeze(-1)
        seconds[name] = torch.rand(shape, generator=random).cumsum(dim=1) * 10
    labels = {name: example_labels(task, len(subjects), random) for name, task in SCHEMA.tasks.items()}
    return Batch(values, mask, seconds, labels, {"sex": torch.zeros(len(subjects), dtype=torch.int64)}, subjects)
