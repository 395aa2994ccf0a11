"""What all encoders end with: a map to the common width, and which of a record's steps a token stands for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projection(nn.Module):
    """A linear map to the common width, plus what says which modality this is."""

    def __init__(self, features: int, width: int) -> None:
        """Build the projection of one modality."""
        super().__init__()
        self.project = nn.Linear(features, width, bias=False)
        self.modality = nn.Embedding(1, width)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, token, feature] to [batch, token, width], zero where the mask [batch, token] is False."""
        ids = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
        tokens: Tensor = self.project(features) + self.modality(ids)
        return tokens.masked_fill(~mask.unsqueeze(-1), 0.0)


def num_patches(steps: int, size: int) -> int:
    """How many tokens of `size` steps each a record has; the last may be shorter."""
    return -(-steps // size)


def patch_places(mask: Tensor, seconds: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Put every `size` steps together: which tokens are there, and when they were measured.

    Args:
        mask: bool [batch, step].
        seconds: float32 [batch, step].
        size: steps of one token; the last may have fewer.

    Returns:
        bool [batch, token], True where any of the steps is there; float32 [batch, token], the mean over those.
    """
    rows, steps = mask.shape
    shape, rest = (rows, num_patches(steps, size), size), -steps % size
    there = functional.pad(mask, (0, rest)).view(shape)
    when = functional.pad(seconds.masked_fill(~mask, 0.0), (0, rest)).view(shape)
    return there.any(dim=2), when.sum(dim=2) / there.sum(dim=2).clamp(min=1)


def patch_mask(mask: Tensor, size: int) -> Tensor:
    """Which tokens of `size` steps each are there: bool [batch, step] to [batch, token]."""
    return patch_places(mask, torch.zeros_like(mask, dtype=torch.float32), size)[0]
