"""An image's tokens, by convolutions: one for each place that is left of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.data.modalities import ImageSpec
from common.models.encoders.convolutions import Shrinking
from common.models.encoders.options import CnnOptions
from common.models.encoders.projection import Projection, num_patches
from common.models.positions import grid_code

_MOST_PLACES = 8  # a side, by default: 64 tokens


class ImageCnn(nn.Module):
    """Convolutions with GroupNorm; a token knows its place in two dimensions."""

    code: Tensor

    def __init__(self, spec: ImageSpec, options: CnnOptions, width: int) -> None:
        """Build the encoder of one modality."""
        super().__init__()
        stages = options.stages or max(1, math.ceil(math.log2(max(spec.size) / _MOST_PLACES)))
        self.shrink = Shrinking(spec.channels, options.channels, stages)
        self.token = Projection(self.shrink.channels, width)
        height, breadth = (num_patches(side, 2**stages) for side in spec.size)
        self.register_buffer("code", grid_code(height, breadth, width), persistent=False)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, 1, channel, height, width] under mask [batch, 1].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """
        image = values[:, 0].masked_fill(~mask.view(-1, 1, 1, 1), 0.0)
        seen = mask.expand(-1, len(self.code))
        tokens = self.token(self.shrink(image).flatten(2).transpose(1, 2), seen)
        return torch.where(seen.unsqueeze(-1), tokens + self.code, 0.0), seen

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        return mask.expand(-1, len(self.code)), seconds.expand(-1, len(self.code))
