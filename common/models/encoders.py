"""Encoders: from one modality's values to tokens of the common width, and whether each token may be looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from common.data.modalities import ModalitySpec, TabularSpec

_LONGEST_PERIOD_SECONDS = 1e4


class Encoder(Protocol):
    """From values to tokens. A row's tokens depend on that row only, and how many there are on no row at all."""

    def __call__(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, time, ...] under mask [batch, time].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""


class TabularEncoder(nn.Module):
    """One token per time step: a linear map of the step's features, plus what says which modality this is."""

    def __init__(self, spec: ModalitySpec, width: int) -> None:
        """Build the encoder of one modality.

        Raises:
            TypeError: the modality is no table.
        """
        super().__init__()
        if not isinstance(spec, TabularSpec):
            raise TypeError(f"a table was expected, got {spec.kind}")
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


def time_code(seconds: Tensor, width: int) -> Tensor:
    """Encode when a step was measured: [batch, time] to [batch, time, width], fixed, and zero at second zero."""
    half = (width + 1) // 2
    steps = torch.arange(half, dtype=seconds.dtype, device=seconds.device)
    phase = seconds.unsqueeze(-1) * torch.exp(-math.log(_LONGEST_PERIOD_SECONDS) * steps / half)
    return torch.cat([torch.sin(phase), torch.cos(phase) - 1.0], dim=-1)[..., :width]


ENCODERS: dict[str, Callable[[ModalitySpec, int], nn.Module]] = {"tabular": TabularEncoder}
