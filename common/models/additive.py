"""Late fusion in its purest form: a bias, plus a linear logit from each modality that is there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.blocks import module_key
from common.data.batch import Batch
from common.data.schema import Schema
from common.models.outputs import Outputs


class AdditiveModel(nn.Module):
    """logit = bias + the sum over present modalities of w . features: logistic regression that bears missing parts."""

    def __init__(self, schema: Schema, task: str) -> None:
        """Build the model for one task of the schema.

        Raises:
            ValueError: a modality is no table.
        """
        super().__init__()
        others = sorted(set(schema.modalities) - set(schema.tables))
        if others:
            raise ValueError(
                f"model=additive reads tables only, and {', '.join(others)} is none; use model=transformer"
            )
        logits = schema.tasks[task].num_logits
        self.logits = nn.ModuleDict(
            {module_key(name): nn.Linear(spec.num_features, logits, bias=False) for name, spec in schema.tables.items()}
        )
        self.bias = nn.Embedding(1, logits)
        self._modalities = tuple(schema.modalities)

    def forward(self, batch: Batch) -> Outputs:
        """Add up the modalities' logits; a modality's steps in time are averaged."""
        total: Tensor = self.bias(torch.zeros(len(batch), dtype=torch.int64, device=batch.subjects.device))
        for name in self._modalities:
            weight = batch.mask[name].unsqueeze(-1).to(batch.values[name].dtype)
            features = (batch.values[name] * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
            total = total + self.logits[module_key(name)](features)
        return Outputs(total, {}, {})
