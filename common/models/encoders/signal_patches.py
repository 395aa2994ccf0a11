"""A signal's tokens: patches of time, and convolutions over them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from common.data.modalities import SignalSpec
from common.models.encoders.convolutions import Residual
from common.models.encoders.options import PatchesOptions
from common.models.encoders.projection import Projection, num_patches, patch_mask, patch_places

_MOST_TOKENS = 64  # by default


class SignalPatches(nn.Module):
    """A linear map of each patch, all channels together, and residual convolutions with GroupNorm."""

    def __init__(self, spec: SignalSpec, options: PatchesOptions, width: int) -> None:
        """Build the encoder of one modality."""
        super().__init__()
        self._patch = options.patch or num_patches(spec.num_steps, _MOST_TOKENS)
        self._rest = -spec.num_steps % self._patch
        self.patch = nn.Conv1d(len(spec.channels), options.channels, self._patch, stride=self._patch)
        self.layers = nn.Sequential(*(Residual(options.channels, dimensions=1) for _ in range(options.layers)))
        self.token = Projection(options.channels, width)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, sample, channel] under mask [batch, sample].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """
        samples = values.masked_fill(~mask.unsqueeze(-1), 0.0).transpose(1, 2)
        places = self.layers(self.patch(functional.pad(samples, (0, self._rest))))
        seen = patch_mask(mask, self._patch)
        return self.token(places.transpose(1, 2), seen), seen

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        return patch_places(mask, seconds, self._patch)
