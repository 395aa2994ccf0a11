"""A sound through a pretrained model of spectra (AST) or of samples (wav2vec 2.0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.data.modalities import AudioSpec
from common.models.backbones.load import load_extractor, load_model

_FEWEST_SECONDS = 0.025  # one window of a spectrum


class HuggingFaceAudio(nn.Module):
    """Each record's own samples through the model's own preparation, and through the model."""

    def __init__(self, spec: AudioSpec, folder: Path) -> None:
        """Load the model and what prepares its input.

        Raises:
            ValueError: the model was trained on another sampling rate.
        """
        super().__init__()
        self.model, self._extractor = load_model(folder), load_extractor(folder)
        self._samples, self._rate = spec.num_steps, int(self._extractor.sampling_rate)
        if self._rate != spec.sample_rate:
            raise ValueError(f"the model hears sounds of {self._rate} Hz, and sample_rate is {spec.sample_rate}")
        self._in_time = hasattr(self.model, "_get_feat_extract_output_lengths")

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode samples [batch, sample]: [batch, token, feature] and which tokens are there; always in float32."""
        lengths = mask.sum(dim=1).clamp(min=min(self._samples, round(_FEWEST_SECONDS * self._rate)))
        heard = values.masked_fill(~mask, 0.0).cpu().numpy()
        sounds = [row[:length] for row, length in zip(heard, lengths.tolist(), strict=True)]
        to_length = {"padding": "max_length", "max_length": self._samples, "truncation": True} if self._in_time else {}
        # What is not finite stays so, and the step leaves its subject out.
        with np.errstate(invalid="ignore"), torch.autocast(values.device.type, enabled=False):
            prepared = self._extractor(sounds, sampling_rate=self._rate, return_tensors="pt", **to_length)
            tokens = self.model(**prepared.to(values.device, values.dtype)).last_hidden_state
        last = lengths if self._in_time else torch.full_like(lengths, self._samples)
        share = torch.arange(tokens.shape[1], device=values.device) * self._samples / tokens.shape[1]
        return tokens, share < last.unsqueeze(1)
