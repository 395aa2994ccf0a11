"""A sound's tokens: its log-mel spectrum, by convolutions over time and frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from common.data.modalities import AudioSpec
from common.models.encoders.convolutions import Shrinking
from common.models.encoders.options import MelOptions
from common.models.encoders.projection import Projection, num_patches, patch_mask, patch_places

_SILENCE, _MIDDLE, _SPREAD = 1e-8, 8.0, 4.0  # speech then lies around 0, most of it within 2


class LogMel(nn.Module):
    """A fixed front end: nothing to learn, one record at a time, in float32."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, options: MelOptions) -> None:
        """Build it for one sampling rate."""
        super().__init__()
        self.hop = max(1, round(options.hop_seconds * sample_rate))
        length = max(self.hop, round(options.window_seconds * sample_rate))
        self._points = num_points(sample_rate, length, options.mels)
        filters = melscale_fbanks(self._points // 2 + 1, 0.0, sample_rate / 2, options.mels, sample_rate)
        self.register_buffer("window", torch.hann_window(length), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, samples: Tensor, mask: Tensor) -> Tensor:
        """Give samples [batch, sample] their log-mel spectra: [batch, mel, frame], zero where the mask is False."""
        frames = num_patches(samples.shape[1], self.hop)
        before = (len(self.window) - self.hop) // 2
        after = (frames - 1) * self.hop + len(self.window) - before - samples.shape[1]
        around = functional.pad(samples.masked_fill(~mask, 0.0), (before, after))
        with torch.autocast(samples.device.type, enabled=False):
            pieces = around.float().unfold(1, len(self.window), self.hop) * self.window
            power = torch.fft.rfft(pieces, self._points).abs().square() / self.window.sum().square()
            spectra = (torch.log(power @ self.filters + _SILENCE) + _MIDDLE) / _SPREAD
        there = patch_mask(mask, self.hop).unsqueeze(-1)
        return spectra.masked_fill(~there, 0.0).transpose(1, 2).to(samples.dtype)


def num_points(sample_rate: int, length: int, mels: int) -> int:
    """Points of a Fourier transform that holds a window, and leaves no band empty: the lowest is the narrowest."""
    highest = 1127.0 * math.log1p(sample_rate / 2 / 700.0)  # on the mel scale
    narrowest = 700.0 * math.expm1(highest / (mels + 1) / 1127.0)
    return 1 << math.ceil(math.log2(max(2 * length, sample_rate / narrowest)))


class AudioMel(nn.Module):
    """Convolutions with GroupNorm over the spectrum; what is left of a time, with all its frequencies, is one token."""

    def __init__(self, spec: AudioSpec, options: MelOptions, width: int) -> None:
        """Build the encoder of one modality."""
        super().__init__()
        self.spectrum = LogMel(spec.sample_rate, options)
        self.shrink = Shrinking(1, options.channels, options.stages)
        self.token = Projection(self.shrink.channels * num_patches(options.mels, 2**options.stages), width)
        self._samples = self.spectrum.hop * 2**options.stages

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode samples [batch, sample] under mask [batch, sample].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """
        places = self.shrink(self.spectrum(values, mask).unsqueeze(1))
        seen = patch_mask(mask, self._samples)
        return self.token(places.flatten(1, 2).transpose(1, 2), seen), seen

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        return patch_places(mask, seconds, self._samples)
