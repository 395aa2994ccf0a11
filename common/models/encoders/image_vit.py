"""An image's tokens, by a transformer over its patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.data.modalities import ImageSpec
from common.models.attention import Layers
from common.models.encoders.options import VitOptions
from common.models.encoders.projection import Projection, num_patches
from common.models.positions import grid_code

_PATCHES = 8  # along the longer side, by default


class ImageVit(nn.Module):
    """Patches that know their place in two dimensions, and attention between them."""

    code: Tensor

    def __init__(self, spec: ImageSpec, options: VitOptions, width: int) -> None:
        """Build the encoder of one modality."""
        super().__init__()
        patch = options.patch or num_patches(max(spec.size), _PATCHES)
        self._around = (0, -spec.size[1] % patch, 0, -spec.size[0] % patch)
        self.patch = nn.Conv2d(spec.channels, options.width, patch, stride=patch)
        self.layers = Layers(options)
        self.token = Projection(options.width, width)
        height, breadth = (num_patches(side, patch) for side in spec.size)
        self.register_buffer("code", grid_code(height, breadth, options.width), persistent=False)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, 1, channel, height, width] under mask [batch, 1].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """
        image = functional.pad(values[:, 0].masked_fill(~mask.view(-1, 1, 1, 1), 0.0), self._around)
        seen = mask.expand(-1, len(self.code))
        patches = self.patch(image).flatten(2).transpose(1, 2)
        return self.token(self.layers(torch.add(patches, self.code), seen), seen), seen

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        return mask.expand(-1, len(self.code)), seconds.expand(-1, len(self.code))
