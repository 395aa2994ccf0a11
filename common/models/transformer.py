"""Encoders, one fusion transformer, a head, and a small head per modality."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from common.blocks import module_key
from common.config import Config
from common.data.batch import Batch
from common.data.schema import Schema
from common.models.encoders import ENCODERS, Encoder, time_code
from common.models.fusion import Fusion, pooled
from common.models.heads import TaskHead
from common.models.outputs import Outputs
from common.models.parts import ObjectiveParts, Seen
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
        names = read_modalities(config.objective.parts, schema.modalities)
        modalities = [(name, schema.modalities[name]) for name in names]
        self.encoders = nn.ModuleDict({module_key(name): ENCODERS[spec.kind](spec, width) for name, spec in modalities})
        self.fusion = Fusion(config.fusion, config.model, names)
        self.heads = nn.ModuleDict({module_key(config.objective.task): TaskHead(task, width)})
        with_auxiliary = names if config.objective.auxiliary_weight > 0 else ()
        self.auxiliary = nn.ModuleDict({module_key(name): TaskHead(task, width) for name in with_auxiliary})
        self.parts = ObjectiveParts(config, schema)
        self._modalities, self._with_auxiliary, self._width = names, with_auxiliary, width
        self._task = config.objective.task

    def _encode(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """One modality's tokens and their mask: those that a frozen encoder gave before, where the batch has them."""
        encoder = cast("Encoder", self.encoders[module_key(name)])
        mask, seconds = encoder.places(batch.mask[name], batch.seconds[name])
        if name in batch.encoded:
            tokens = batch.encoded[name].masked_fill(~mask.unsqueeze(-1), 0.0)
        else:
            tokens, _ = encoder(batch.values[name], batch.mask[name])
        return tokens + time_code(seconds, self._width), mask

    def forward(self, batch: Batch) -> Outputs:
        """Answer for every row of the batch; in training, with what the parts of the objective look at."""
        tokens, masks = {}, {}
        shown = self.parts.hide(batch) if self.training else batch
        for name in self._modalities:
            tokens[name], masks[name] = self._encode(name, shown)
        fused = self.fusion(tokens, masks)
        logits = self.heads[module_key(self._task)](fused)
        auxiliary = {
            name: self.auxiliary[module_key(name)](pooled(tokens[name], masks[name])) for name in self._with_auxiliary
        }
        present = {name: masks[name].any(dim=1) for name in self._with_auxiliary}
        if auxiliary:
            each = torch.stack([auxiliary[name] for name in self._with_auxiliary], dim=1)
            logits = logits + pooled(each, torch.stack([present[name] for name in self._with_auxiliary], dim=1))
        heard = self.parts(Seen(batch, tokens, masks, fused), self._encode) if self.training else ()
        return Outputs(logits, auxiliary, present, heard)
