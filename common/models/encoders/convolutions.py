"""Residual convolutions with GroupNorm, whose statistics are one record's own."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.models.encoders.options import NUM_GROUPS

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


class Residual(nn.Module):
    """Add to each place what its neighbours say; the norm is inside the branch, so that loudness is not lost."""

    def __init__(self, channels: int, *, dimensions: int) -> None:
        """Build one layer over one or two dimensions."""
        super().__init__()
        self.norm = nn.GroupNorm(NUM_GROUPS, channels)
        self.neighbours = _CONVOLUTIONS[dimensions](channels, channels, 3, padding=1)

    def forward(self, places: Tensor) -> Tensor:
        """Change [batch, channel, ...] and keep its shape."""
        return torch.add(places, self.neighbours(functional.gelu(self.norm(places))))


class Shrinking(nn.Module):
    """Stages that each halve height and width, rounded up."""

    def __init__(self, channels_in: int, channels: int, stages: int) -> None:
        """Build it: `channels` in the first stage, twice as many in later ones."""
        super().__init__()
        sizes = [channels_in, channels, *[2 * channels] * (stages - 1)]
        self.channels = sizes[-1]
        self.halve = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(sizes)
        )
        self.stages = nn.ModuleList(Residual(size, dimensions=2) for size in sizes[1:])
        self.norm = nn.GroupNorm(NUM_GROUPS, self.channels)

    def forward(self, image: Tensor) -> Tensor:
        """Bring [batch, channel, height, width] to `channels` and 2^-stages of the sides.

        What comes out is bent once more: the mean over places of a linear map would forget where anything was.
        """
        for halve, stage in zip(self.halve, self.stages, strict=True):
            image = stage(halve(image))
        return functional.gelu(self.norm(image))
