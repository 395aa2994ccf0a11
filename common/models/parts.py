"""The parts of an objective besides the task: their modules, and what each of their losses looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.blocks import module_key
from common.config import Config
from common.data.batch import Batch, example_values
from common.data.pieces import hide_pieces, pieces_of
from common.data.schema import Schema
from common.models.fusion import pooled
from common.models.outputs import Heard, Paired, Told
from common.models.told import Restorer, Teller
from common.objectives import Anchor, Caption, InBatch, MaskedTokens, Part

Encode = Callable[[str, Batch], tuple[Tensor, Tensor]]
"""How a model makes tokens, and their mask, of one modality of a batch."""


@dataclass(frozen=True)
class Seen:
    """What a model made of a batch.

    Attributes:
        batch: as it was, with nothing hidden.
        tokens: by modality that is read, [batch, token, width].
        masks: by modality that is read, bool [batch, token].
        fused: [batch, width].
    """

    batch: Batch
    tokens: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    fused: Tensor

    def mean(self, name: str) -> Tensor:
        """The mean token of a modality, [batch, width]."""
        return pooled(self.tokens[name], self.masks[name])

    def present(self, name: str) -> Tensor:
        """Which rows have a modality: bool [batch]."""
        return self.masks[name].any(dim=1)


class Strangers(nn.Module):
    """Made-up records of one modality, the same everywhere, for a frozen encoder to speak of."""

    def __init__(self, schema: Schema, part: Anchor) -> None:
        """Make them up."""
        super().__init__()
        values = example_values(schema.modalities[part.target], part.bank, torch.Generator().manual_seed(0))
        self.register_buffer("values", values, persistent=False)
        self._target = part.target

    def forward(self, encode: Encode) -> Tensor:
        """The mean token of each, [stranger, width]."""
        values, name = self.get_buffer("values"), self._target
        there = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        rows = torch.arange(len(values), device=values.device)
        batch = Batch({name: values}, {name: there}, {name: torch.zeros_like(there, dtype=torch.float32)}, {}, {}, rows)
        with torch.no_grad():
            return pooled(*encode(name, batch))


class ObjectiveParts(nn.Module):
    """What is trained for the parts of an objective besides the task."""

    def __init__(self, config: Config, schema: Schema) -> None:
        """Build what the parts need, and nothing else."""
        super().__init__()
        self._parts, self._specs, width = config.objective.parts, schema.modalities, config.model.width
        learning = {name for part in self._parts for name in _projected(part)}
        self.projections = nn.ModuleDict(
            {module_key(name): nn.Linear(width, width, bias=False) for name in sorted(learning)}
        )
        self.strangers, self.tellers, self.restorers = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for place, part in enumerate(self._parts):
            if isinstance(part, Anchor):
                self.strangers[str(place)] = Strangers(schema, part)
            elif isinstance(part, Caption):
                length = self._specs[part.target].num_steps
                self.tellers[module_key(part.target)] = Teller(config.model, layers=part.layers, length=length)
            elif isinstance(part, MaskedTokens):
                self.restorers[module_key(part.modality)] = Restorer(self._specs[part.modality], config.model)

    def hide(self, batch: Batch) -> Batch:
        """Take out of a batch what it says is hidden of the modalities that these parts ask for."""
        asked = [part.modality for part in self._parts if isinstance(part, MaskedTokens)]
        hidden = {
            name: hide_pieces(batch.values[name], batch.hidden[name], self._specs[name])
            for name in asked
            if name in batch.hidden
        }
        return replace(batch, values=batch.values | hidden) if hidden else batch

    def forward(self, seen: Seen, encode: Encode) -> tuple[Heard, ...]:
        """For each part, in order, what its loss looks at."""
        return tuple(self._heard(place, part, seen, encode) for place, part in enumerate(self._parts))

    def write(self, fused: Tensor) -> dict[str, Tensor]:
        """Write the texts that captions tell, from what was read, [batch, width]: by modality, int64 [batch, token]."""
        captions = [part.target for part in self._parts if isinstance(part, Caption)]
        return {name: cast("Teller", self.tellers[module_key(name)]).write(fused) for name in captions}

    def _heard(self, place: int, part: Part, seen: Seen, encode: Encode) -> Heard:
        if isinstance(part, Anchor):
            return (self._anchored(part, seen, self.strangers[str(place)](encode)),)
        if isinstance(part, InBatch):
            return self._brought_together(part, seen)
        if isinstance(part, Caption):
            batch, teller = seen.batch, self.tellers[module_key(part.target)]
            told: Told = teller(seen.fused, batch.values[part.target], batch.mask[part.target])
            return told
        if isinstance(part, MaskedTokens) and part.modality in seen.batch.hidden:
            return self._restored(part.modality, seen)
        return None

    def _anchored(self, part: Anchor, seen: Seen, strangers: Tensor) -> Paired:
        """Pair a trained side with a frozen one, which is centred by the strangers on it."""
        query = self.projections[module_key(part.query)](seen.mean(part.query))
        centre = strangers.mean(dim=0)
        target, strangers = _unit(seen.mean(part.target) - centre).detach(), _unit(strangers - centre)
        return Paired(_unit(query), target, seen.present(part.query) & seen.present(part.target), strangers)

    def _brought_together(self, part: InBatch, seen: Seen) -> tuple[Paired, ...]:
        sides = {name: _unit(self.projections[module_key(name)](seen.mean(name))) for name in part.modalities}
        return tuple(
            Paired(sides[one], sides[other], seen.present(one) & seen.present(other)) for one, other in part.pairs
        )

    def _restored(self, name: str, seen: Seen) -> Told:
        batch = seen.batch
        pieces = pieces_of(batch.values[name], batch.mask[name], self._specs[name])
        tokens, masks = list(seen.tokens.values()), list(seen.masks.values())
        told: Told = self.restorers[module_key(name)](tokens, masks, pieces, batch.hidden[name])
        return told


def _projected(part: Part) -> tuple[str, ...]:
    if isinstance(part, Anchor):
        return (part.query,)
    return part.modalities if isinstance(part, InBatch) else ()


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=1, eps=1e-6)
