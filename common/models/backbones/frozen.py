"""Nothing in a frozen network may depend on who else is in the batch, and nothing in it may change."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FixedNorm(nn.Module):
    """What a BatchNorm is once its statistics are fixed: one scale and one shift a channel, the same for every row."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        """Take over a BatchNorm's statistics and weights.

        Raises:
            ValueError: it keeps no statistics, and would always take the batch's.
        """
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a BatchNorm without running statistics mixes the rows of every batch")
        with torch.no_grad():
            scale = torch.rsqrt(norm.running_var + norm.eps)
            scale = scale * norm.weight if norm.affine else scale
            shift = (norm.bias if norm.affine else 0.0) - norm.running_mean * scale
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    def forward(self, values: Tensor) -> Tensor:
        """Scale and shift [batch, channel, ...]."""
        shape = (-1, *(1,) * (values.dim() - 2))
        return values * self.scale.view(shape) + self.shift.view(shape)


def freeze(network: nn.Module) -> nn.Module:
    """Make a network one that no step and no batch changes.

    Guarantees:
        frozen: no parameter of it is trainable.
        per row: every BatchNorm is a `FixedNorm` with its statistics; what it says is what it said in evaluation.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, FixedNorm(child))
    return network.eval()
