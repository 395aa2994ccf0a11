"""The loss of a task, one number a row: nothing here looks at two rows at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from common.data.labels import is_known, is_labelled
from common.models.outputs import Outputs


def per_example_loss(outputs: Outputs, labels: Tensor, *, auxiliary_weight: float) -> Tensor:
    """Give every row's loss, [batch]: cross-entropy, its mean over a row's known labels, or half the squared error.

    Which it is follows from the labels (labels.model_labels). The auxiliary part is the mean over the modalities that
    the row has. A label that is unknown loses nothing.
    """
    known = is_labelled(labels).to(outputs.logits.dtype)
    loss = _task_loss(outputs.logits, labels)
    if outputs.auxiliary:
        total, count = torch.zeros_like(loss), torch.zeros_like(loss)
        for name, logits in outputs.auxiliary.items():
            present = outputs.auxiliary_present[name].to(loss.dtype)
            total, count = total + present * _task_loss(logits, labels), count + present
        loss = loss + auxiliary_weight * total / count.clamp(min=1.0)
    return loss * known


def scores(outputs: Outputs, kind: str = "multiclass") -> Tensor:
    """Give each row's answer for a task of this kind: [batch, 1, class or label].

    Chances of the second class (binary), of each class, or of each label; a number within [-1, 1] (regression).
    """
    logits = outputs.logits
    if kind == "regression":
        return logits.clamp(-1.0, 1.0)
    one_by_one = kind == "multilabel" or logits.shape[1] == 1
    return torch.sigmoid(logits) if one_by_one else torch.softmax(logits, dim=1)


def _task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return 0.5 * (logits[:, 0] - torch.nan_to_num(labels).to(logits.dtype)) ** 2
    known = labels.clamp(min=0)
    if labels.dim() > 1:
        each = functional.binary_cross_entropy_with_logits(logits, known.to(logits.dtype), reduction="none")
        counted = is_known(labels).to(logits.dtype)
        return (each * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1.0)
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], known.to(logits.dtype), reduction="none")
    return functional.cross_entropy(logits, known, reduction="none")
