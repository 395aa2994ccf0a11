"""What training hides of a record: whole modalities, and pieces of one that the model is then asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch

from client.augment import Uniforms
from common.config import Config
from common.data.batch import Batch, masked
from common.data.pieces import num_pieces
from common.objectives import MaskedTokens, Part, told
from common.releases import schema_of


@dataclass(frozen=True)
class Hiding:
    """What is hidden in a step.

    Attributes:
        pieces: modalities of which pieces are hidden: how many a record has, and the chance of each.
        told: modalities that the model does not read; modality dropout leaves them alone.
    """

    pieces: tuple[tuple[str, int, float], ...] = ()
    told: tuple[str, ...] = ()


NOTHING_HIDDEN = Hiding()


def hiding_of(config: Config, parts: tuple[Part, ...]) -> Hiding:
    """What is hidden for a run's parts, with the weights that they have in a round: nothing for one that is off."""
    modalities = schema_of(config).modalities if config.data_schema is not None else {}
    asked = [(part.modality, part.chance if part.weight else 0.0) for part in parts if isinstance(part, MaskedTokens)]
    pieces = tuple((name, num_pieces(modalities[name]), chance) for name, chance in asked)
    return Hiding(pieces, told(parts))


def conceal(sample: Batch, dropout: float, hiding: Hiding, uniforms: Uniforms) -> Batch:
    """Hide modalities with a chance, and pieces of modalities, by draws in [0, 1) that `uniforms` has for each label.

    Guarantees:
        per row: what is hidden in a row depends on that row and its own draws only.
    """
    if dropout:
        draws = uniforms("dropout", len(sample) * len(sample.mask))
        sample = drop_modalities(sample, dropout, draws, never=hiding.told)
    hidden = {
        name: torch.from_numpy(uniforms(f"hiding/{name}", len(sample) * pieces).reshape(-1, pieces) < chance)
        for name, pieces, chance in hiding.pieces
    }
    return replace(sample, hidden=hidden) if hidden else sample


def drop_modalities(batch: Batch, chance: float, uniforms: np.ndarray, *, never: Collection[str] = ()) -> Batch:
    """Hide each present modality of each row with a chance; a row that would lose all keeps all.

    Args:
        batch: rows.
        chance: of one modality of one row to be hidden.
        uniforms: [row * modality] draws in [0, 1), row by row.
        never: modalities that are neither hidden nor enough for a row to have.

    Guarantees:
        per row: what is hidden in a row depends on that row and its own draws only.
    """
    stays = torch.from_numpy(uniforms.reshape(len(batch), len(batch.mask)) >= chance)
    left = {n: seen & stays[:, [p]] for p, (n, seen) in enumerate(batch.mask.items()) if n not in never}
    some = torch.stack([seen.any(dim=1) for seen in left.values()], dim=1).any(dim=1, keepdim=True)
    mask = {n: torch.where(some, left[n], seen) if n in left else seen for n, seen in batch.mask.items()}
    values = {name: masked(value, mask[name]) for name, value in batch.values.items()}
    return replace(batch, values=values, mask=mask)
