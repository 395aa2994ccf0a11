"""Fixed codes of where and when a token is: nothing to learn, and zero at the origin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LONGEST_PERIOD_SECONDS = 1e4


def time_code(seconds: Tensor, width: int) -> Tensor:
    """Encode when a step was measured: [batch, time] to [batch, time, width], fixed, and zero at second zero."""
    half = (width + 1) // 2
    steps = torch.arange(half, dtype=seconds.dtype, device=seconds.device)
    phase = seconds.unsqueeze(-1) * torch.exp(-math.log(_LONGEST_PERIOD_SECONDS) * steps / half)
    return torch.cat([torch.sin(phase), torch.cos(phase) - 1.0], dim=-1)[..., :width]


def grid_code(height: int, breadth: int, width: int) -> Tensor:
    """Encode where a place of an image is: [height * breadth, width], row by row; half for each direction."""
    row, column = torch.arange(height, dtype=torch.float32), torch.arange(breadth, dtype=torch.float32)
    rows, columns = time_code(row, (width + 1) // 2), time_code(column, width // 2)
    both = [rows.unsqueeze(1).expand(-1, breadth, -1), columns.unsqueeze(0).expand(height, -1, -1)]
    return torch.cat(both, dim=-1).reshape(height * breadth, width)
