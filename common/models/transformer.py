"""Encoders, one fusion transformer, a head, and a small head per modality."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from common.blocks import module_key
from common.config import Config
from common.data.batch import Batch
from common.data.schema import Schema
from common.models.attention import recomputed
from common.models.encoders.projection import Projection
from common.models.encoders.table import Encoder, build_backbones, build_encoder
from common.models.fusion import Fusion, pooled
from common.models.heads import TaskHead
from common.models.outputs import Outputs
from common.models.parts import ObjectiveParts, Seen
from common.models.positions import time_code
from common.objectives import read_modalities


class TransformerModel(nn.Module):
    """The multimodal model. Every row goes through every part, whatever it lacks; masks do the rest.

    The modalities' auxiliary heads read the encoder's tokens before fusion: each is what that modality alone would say.
    The mean of their logits, over the modalities that a row has, is added to the fused one: late fusion first, and
    attention learns what that leaves. (Their sum would count what modalities share twice, and make the model much too
    sure of itself.) Without an auxiliary loss they are not built.
    """

    def __init__(self, config: Config, schema: Schema) -> None:
        """Build the model for objective.task."""
        super().__init__()
        task, width = schema.tasks[config.objective.task], config.model.width
        names, options = read_modalities(config.objective.parts, schema.modalities), config.model.encoders
        modalities = {name: schema.modalities[name] for name in names}
        backbones = build_backbones(modalities, options)
        self.encoders = nn.ModuleDict(
            {
                module_key(name): Projection(backbones[name].width, width)
                if name in backbones
                else build_encoder(name, spec, options.get(name), width)
                for name, spec in modalities.items()
            }
        )
        self.backbones = nn.ModuleDict({module_key(name): backbone for name, backbone in backbones.items()})
        self.fusion = Fusion(config.fusion, config.model, modalities)
        self.heads = nn.ModuleDict({module_key(config.objective.task): TaskHead(task, width)})
        with_auxiliary = names if config.objective.auxiliary_weight > 0 else ()
        self.auxiliary = nn.ModuleDict({module_key(name): TaskHead(task, width) for name in with_auxiliary})
        self.parts = ObjectiveParts(config, schema)
        self._modalities, self._with_auxiliary, self._width = names, with_auxiliary, width
        self._task = config.objective.task
        self._bfloat16, self._recompute = config.model.precision == "bfloat16", config.model.recompute

    def _precision(self, where: Tensor) -> torch.autocast:
        """What the large parts multiply in; what is in double precision stays in it."""
        return torch.autocast(where.device.type, torch.bfloat16, enabled=self._bfloat16)

    def _encode(self, name: str, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """One modality's tokens, mask and time; what a frozen part gave before, where the batch has them."""
        key = module_key(name)
        reader = cast("Encoder", self.backbones[key] if key in self.backbones else self.encoders[key])
        mask, seconds = reader.places(batch.mask[name], batch.seconds[name])
        if name in batch.encoded:
            tokens = batch.encoded[name].masked_fill(~mask.unsqueeze(-1), 0.0)
        else:
            with self._precision(mask):
                again = self._recompute and self.training
                tokens, _ = recomputed(reader, batch.values[name], batch.mask[name], again=again)
        if key in self.backbones:
            tokens = self.encoders[key](tokens, mask)
        return tokens + time_code(seconds, self._width), mask, seconds

    def _tokens(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens, mask, _ = self._encode(name, batch)
        return tokens, mask

    def forward(self, batch: Batch) -> Outputs:
        """Answer for every row of the batch; in training, with what the parts of the objective look at."""
        seen = self.see(batch)
        tokens, masks = seen.tokens, seen.masks
        logits = self.heads[module_key(self._task)](seen.fused)
        auxiliary = {
            name: self.auxiliary[module_key(name)](pooled(tokens[name], masks[name])) for name in self._with_auxiliary
        }
        present = {name: masks[name].any(dim=1) for name in self._with_auxiliary}
        if auxiliary:
            each = torch.stack([auxiliary[name] for name in self._with_auxiliary], dim=1)
            logits = logits + pooled(each, torch.stack([present[name] for name in self._with_auxiliary], dim=1))
        heard = self.parts(seen, self._tokens) if self.training else ()
        return Outputs(logits, auxiliary, present, heard)

    def see(self, batch: Batch) -> Seen:
        """Read a batch: every modality's tokens, and all of them fused."""
        tokens, masks, seconds = {}, {}, {}
        shown = self.parts.hide(batch) if self.training else batch
        for name in self._modalities:
            tokens[name], masks[name], seconds[name] = self._encode(name, shown)
        with self._precision(batch.subjects):
            fused = self.fusion(tokens, masks, seconds)
        return Seen(batch, tokens, masks, fused.to(seconds[self._modalities[0]].dtype))

    def write(self, batch: Batch) -> dict[str, Tensor]:
        """Write, for every row, the texts that captions tell: by modality, int64 [batch, token]."""
        return self.parts.write(self.see(batch).fused)
