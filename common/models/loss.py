"""The loss, one number a row: nothing here looks at two rows at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from common.models.outputs import Outputs


def per_example_loss(outputs: Outputs, labels: Tensor, *, auxiliary_weight: float) -> Tensor:
    """Cross-entropy of every row: [batch].

    The auxiliary part is the mean over the modalities that the row has. A row whose label is unknown (negative) loses
    nothing.
    """
    known = (labels >= 0).to(outputs.logits.dtype)
    loss = _cross_entropy(outputs.logits, labels)
    if outputs.auxiliary:
        total, count = torch.zeros_like(loss), torch.zeros_like(loss)
        for name, logits in outputs.auxiliary.items():
            present = outputs.auxiliary_present[name].to(loss.dtype)
            total, count = total + present * _cross_entropy(logits, labels), count + present
        loss = loss + auxiliary_weight * total / count.clamp(min=1.0)
    return loss * known


def scores(outputs: Outputs) -> Tensor:
    """Give each row's chances: [batch, 1] of the second class (binary), or [batch, class]."""
    logits = outputs.logits
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    known = labels.clamp(min=0)
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], known.to(logits.dtype), reduction="none")
    return functional.cross_entropy(logits, known, reduction="none")
