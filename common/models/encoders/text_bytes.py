"""A text's tokens, by a transformer over patches of its bytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.data.modalities import TextSpec
from common.data.readings import NUM_TOKENS
from common.models.attention import Layers
from common.models.encoders.options import BytesOptions
from common.models.encoders.projection import Projection, num_patches, patch_mask, patch_places


class TextBytes(nn.Module):
    """Each byte's vector, some of them side by side one token with a learnt place, and attention between those."""

    def __init__(self, spec: TextSpec, options: BytesOptions, width: int) -> None:
        """Build the encoder of one modality."""
        super().__init__()
        self._patch, self._rest = options.patch, -spec.max_tokens % options.patch
        self.byte = nn.Embedding(NUM_TOKENS, options.width)
        self.patch = nn.Conv1d(options.width, options.width, options.patch, stride=options.patch)
        self.place = nn.Embedding(num_patches(spec.max_tokens, options.patch), options.width)
        self.layers = Layers(options)
        self.token = Projection(options.width, width)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode bytes [batch, byte] under mask [batch, byte].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """
        letters = self.byte(values).masked_fill(~mask.unsqueeze(-1), 0.0)
        patches = self.patch(functional.pad(letters.transpose(1, 2), (0, self._rest))).transpose(1, 2)
        ids = torch.arange(patches.shape[1], device=values.device).repeat(len(values), 1)
        seen = patch_mask(mask, self._patch)
        return self.token(self.layers(patches + self.place(ids), seen), seen), seen

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        return patch_places(mask, seconds, self._patch)
