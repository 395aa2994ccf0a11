"""The naive twin of the clipped sum: one subject at a time, plain autograd, nothing shared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from client.dp import Clipping, clipped_sum, per_row_gradients
from common.data.batch import Batch, take
from common.models.loss import row_losses


def one_subject(model: nn.Module, batch: Batch, subject: int, clipping: Clipping) -> Tensor:
    """One subject's clipped gradient, float64 [coordinate]: of the mean loss over its rows, in a batch of its own."""
    own = take(batch, batch.subjects == subject)
    weight, summed = clipping.auxiliary_weight, clipping.parts
    losses = row_losses(model.train(), own, task=clipping.task, auxiliary_weight=weight, parts=summed)
    parts = torch.autograd.grad(losses.mean(), [part for part in model.parameters() if part.requires_grad])
    gradient = torch.cat([part.ravel() for part in parts]).double()
    return gradient * min(1.0, clipping.clip_norm / float(gradient.norm().clamp(min=1e-300)))


def clipped_vector(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    """The clipped sum under test as one vector, float64 [coordinate]."""
    with per_row_gradients(model):
        found = clipped_sum(model, batch, clipping).gradients
    return torch.cat([part.ravel() for part in found.values()])


def without(batch: Batch, subject: int) -> Batch:
    """The neighbour: the same batch without one subject."""
    return take(batch, batch.subjects != subject)
