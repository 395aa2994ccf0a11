"""Modalities brought together: what the contrastive parts of an objective look at."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.blocks import module_key
from common.data.batch import example_values
from common.data.schema import Schema
from common.models.encoders.table import Encoder
from common.models.fusion import pooled
from common.models.outputs import Paired
from common.objectives import Anchor, InBatch, Part


class Strangers(nn.Module):
    """Made-up records of one modality, the same everywhere, for a frozen encoder to speak of."""

    def __init__(self, schema: Schema, part: Anchor) -> None:
        """Make them up."""
        super().__init__()
        values = example_values(schema.modalities[part.target], part.bank, torch.Generator().manual_seed(0))
        self.register_buffer("values", values, persistent=False)

    def forward(self, encoder: nn.Module) -> Tensor:
        """What the encoder says of them, [stranger, width]."""
        values = cast("Tensor", self.values)
        with torch.no_grad():
            tokens, mask = cast("Encoder", encoder)(values, torch.ones(values.shape[:2], dtype=torch.bool))
            return pooled(tokens, mask)


def projected(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """The modalities that a projection is trained for."""
    names = [part.query for part in parts if isinstance(part, Anchor)]
    names += [name for part in parts if isinstance(part, InBatch) for name in part.modalities]
    return tuple(sorted(set(names)))


def anchored(query: Tensor, target: Tensor, both: Tensor, strangers: Tensor) -> Paired:
    """Pair a trained side with a fixed one [batch, width], which is centred by the strangers on it.

    Guarantees:
        per row: a row's pair depends on that row and the strangers only.
    """
    centre = strangers.mean(dim=0)
    sides = (functional.normalize(side, dim=1, eps=1e-6) for side in (query, target - centre, strangers - centre))
    query, target, strangers = sides
    return Paired(query, target.detach(), both, strangers.detach())


def brought_together(
    projections: nn.ModuleDict, means: Mapping[str, Tensor], present: Mapping[str, Tensor], part: InBatch
) -> tuple[Paired, ...]:
    """Pair the projections of every two modalities of a part."""
    sides = {
        name: functional.normalize(projections[module_key(name)](means[name]), dim=1, eps=1e-6)
        for name in part.modalities
    }
    return tuple(Paired(sides[a], sides[b], present[a] & present[b]) for a, b in combinations(part.modalities, 2))
