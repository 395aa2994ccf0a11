"""Build the model that a configuration and a schema ask for, the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from common.blocks import block_of, blocks_of, flatten, is_named, is_personal
from common.config import Config
from common.data.schema import Schema
from common.models.additive import AdditiveModel
from common.models.backbones.adapters import starts_at_zero
from common.models.heads import TaskHead
from common.models.outputs import Outputs
from common.models.transformer import TransformerModel
from common.releases import schema_of
from common.seeds import torch_generator

__all__ = ["Outputs", "build_model", "first_weights", "summed_in_training"]

MODELS: dict[str, Callable[[Config, Schema], nn.Module]] = {
    "transformer": TransformerModel,
    "additive": lambda config, schema: AdditiveModel(schema, config.objective.task),
}


def build_model(config: Config, schema: Schema, *, seed: int) -> nn.Module:
    """Build the model with its first weights.

    Guarantees:
        frozen: what config.model.frozen names is not trainable, so that no list of blocks has it.
        the same everywhere: weights depend on `seed` and their own name only; torch's global generator is not touched,
            and one more modality changes no other part's first weights.

    Raises:
        ValueError: the schema does not have objective.task, or fusion.query names no modality.
    """
    if config.objective.task not in schema.tasks:
        raise ValueError(f"objective.task must be one of {', '.join(schema.tasks)}, got {config.objective.task!r}")
    with torch.random.fork_rng(devices=[]):
        model = MODELS[config.model.kind](config, schema)
    with torch.no_grad():
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{prefix}.{name}"
                if block_of(full).startswith("backbone/"):  # loaded, not drawn
                    continue
                draw = _zeros if starts_at_zero(full) else FIRST_WEIGHTS[type(module), name]
                draw(parameter, torch_generator(seed, "weights", full))
        for module in model.modules():
            if config.model.kind == "additive" or isinstance(module, TaskHead):
                # Zero is as good a start as any for a linear answer, and needs no luck.
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)
    for name, parameter in model.named_parameters():
        if is_named(block_of(name), config.model.frozen):
            parameter.requires_grad_(False)
    return model


def first_weights(config: Config) -> dict[str, np.ndarray]:
    """Give the first weights of the blocks that all sites share, by block: float32 [parameter]."""
    model = build_model(config, schema_of(config), seed=config.seed)
    shared = tuple(block for block in blocks_of(model) if not is_personal(block, config.federation.personal))
    return flatten(model, shared)


def summed_in_training(config: Config, num_sites: int) -> tuple[int, int] | None:
    """Sites and coordinates of the sums whose noise is shared out; None where every site noises its own in full."""
    if config.privacy.kind != "distributed":
        return None
    return num_sites, sum(block.size for block in first_weights(config).values())


def _uniform(parameter: Tensor, generator: torch.Generator) -> None:
    limit = 1.0 / math.sqrt(parameter.shape[1])
    nn.init.uniform_(parameter, -limit, limit, generator=generator)


def _as_wide(parameter: Tensor, generator: torch.Generator) -> None:
    """What comes out varies as much as what went in: no norm stands between the convolutions to make up for it."""
    limit = math.sqrt(3.0 / parameter[0].numel())
    nn.init.uniform_(parameter, -limit, limit, generator=generator)


def _small(parameter: Tensor, generator: torch.Generator) -> None:
    nn.init.normal_(parameter, std=1.0 / math.sqrt(parameter.shape[1]), generator=generator)


def _zeros(parameter: Tensor, _generator: torch.Generator) -> None:
    nn.init.zeros_(parameter)


def _ones(parameter: Tensor, _generator: torch.Generator) -> None:
    nn.init.ones_(parameter)


FIRST_WEIGHTS: dict[tuple[type[nn.Module], str], Callable[[Tensor, torch.Generator], None]] = {
    (nn.Linear, "weight"): _uniform,
    (nn.Linear, "bias"): _zeros,
    (nn.Embedding, "weight"): _small,
    (nn.LayerNorm, "weight"): _ones,
    (nn.LayerNorm, "bias"): _zeros,
    (nn.GroupNorm, "weight"): _ones,
    (nn.GroupNorm, "bias"): _zeros,
    (nn.Conv1d, "weight"): _as_wide,
    (nn.Conv1d, "bias"): _zeros,
    (nn.Conv2d, "weight"): _as_wide,
    (nn.Conv2d, "bias"): _zeros,
}
