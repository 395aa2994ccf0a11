"""The naive twin of the clipped sum: one subject at a time, plain autograd, nothing shared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from client.dp import Clipping, clipped_sum, per_row_gradients, row_gradients
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


def rows_alone(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    """Every row's gradient from a batch of its own: float32 [row, coordinate]."""
    trainable, found = [part for part in model.parameters() if part.requires_grad], []
    for row in range(len(batch)):
        own = take(batch, torch.tensor([row]))
        weight, summed = clipping.auxiliary_weight, clipping.parts
        losses = row_losses(model, own, task=clipping.task, auxiliary_weight=weight, parts=summed)
        parts = torch.autograd.grad(losses.sum(), trainable)
        found.append(torch.cat([part.ravel() for part in parts]))
    return torch.stack(found)


def gradients_of_rows(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    """Every row's gradient by the engine under test, all rows at once: float32 [row, coordinate]."""
    with per_row_gradients(model):
        return row_gradients(model, batch, clipping)


def largest_error(found: Tensor, expected: Tensor) -> float:
    """The largest distance of two rows' gradients, in lengths of the expected one."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def clipped_vector(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    """The clipped sum under test as one vector, float64 [coordinate]."""
    with per_row_gradients(model):
        found = clipped_sum(model, batch, clipping).gradients
    return torch.cat([part.ravel() for part in found.values()])


def without(batch: Batch, subject: int) -> Batch:
    """The neighbour: the same batch without one subject."""
    return take(batch, batch.subjects != subject)
