"""A table's tokens: one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.data.modalities import TabularSpec
from common.models.encoders.options import LinearOptions


class TabularEncoder(nn.Module):
    """One token per time step: a linear map of the step's features, plus what says which modality this is."""

    def __init__(self, spec: TabularSpec, _options: LinearOptions, width: int) -> None:
        """Build the encoder of one modality."""
        super().__init__()
        self.project = nn.Linear(spec.num_features, width, bias=False)
        self.modality = nn.Embedding(1, width)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, time, feature] under mask [batch, time].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """
        ids = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
        tokens = self.project(values) + self.modality(ids)
        return tokens * mask.unsqueeze(-1).to(tokens.dtype), mask

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        return mask, seconds
