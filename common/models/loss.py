"""Losses, one number a row. Those of parts that are per example look at no two rows at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.data.batch import Batch
from common.data.labels import is_known, is_labelled
from common.models.outputs import Heard, Outputs, Paired, Told
from common.objectives import Anchor, InBatch, Part


def row_losses(
    model: nn.Module, batch: Batch, *, task: str, auxiliary_weight: float, parts: tuple[Part, ...]
) -> Tensor:
    """Give every row's loss, [batch]: the weighted sum of an objective's parts.

    Args:
        model: the model, in training mode, built for these parts.
        batch: rows.
        task: what the part `task` is about.
        auxiliary_weight: of that part.
        parts: with the weights that they have in this round.

    Guarantees:
        per example: where all parts say so, a row's loss depends on no other row.
    """
    outputs: Outputs = model(batch)
    total = torch.zeros_like(outputs.logits[:, 0])
    for place, part in enumerate(parts):
        if part.kind == "task":
            loss = per_example_loss(outputs, batch.labels[task], auxiliary_weight=auxiliary_weight)
        else:
            loss = _heard_loss(part, outputs.parts[place], total)
        total = total + part.weight * loss
    return total


def _heard_loss(part: Part, heard: Heard, like: Tensor) -> Tensor:
    if isinstance(heard, Told):
        return _told(heard)
    if heard is None or not isinstance(part, Anchor | InBatch):
        return torch.zeros_like(like)
    return torch.stack([_CONTRASTS[part.kind](pair, part.temperature) for pair in heard]).mean(dim=0)


def _told(told: Told) -> Tensor:
    """The mean over the pieces that a row was asked for: cross-entropy, or half the mean squared error: [batch]."""
    if told.target.is_floating_point():
        each = 0.5 * (told.answers - told.target).square().mean(dim=2)
    else:
        each = functional.cross_entropy(told.answers.transpose(1, 2), told.target, reduction="none")
    counted = told.counted.to(each.dtype)
    return (each * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1.0)


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


def _anchor(pair: Paired, temperature: float) -> Tensor:
    """Cross-entropy of naming one's own partner among strangers who are nobody: [batch]."""
    if pair.strangers is None:
        raise ValueError("an anchored pair needs strangers")
    own = (pair.query * pair.target).sum(dim=1, keepdim=True)
    choices = torch.cat([own, pair.query @ pair.strangers.T], dim=1) / temperature
    return -functional.log_softmax(choices, dim=1)[:, 0] * pair.both.to(choices.dtype)


def _infonce(pair: Paired, temperature: float) -> Tensor:
    """Cross-entropy of naming one's partner among the batch's others, from either side: [batch]. Not per example."""
    likeness = (pair.query @ pair.target.T) / temperature
    likeness = likeness.masked_fill(~(pair.both.unsqueeze(0) & pair.both.unsqueeze(1)), -1e9)
    place = torch.arange(len(likeness))
    sides = [-functional.log_softmax(side, dim=1)[place, place] for side in (likeness, likeness.T)]
    return (sides[0] + sides[1]) / 2 * pair.both.to(likeness.dtype)


def _siglip(pair: Paired, temperature: float) -> Tensor:
    """Telling, of each of the batch's others, whether it is one's own partner: [batch]. Not per example.

    Source: Zhai et al. 2023, arXiv:2303.15343; scale and bias are fixed at what they begin with there for 0.1.
    """
    likeness = (pair.query @ pair.target.T - 1.0) / temperature
    own = 2 * torch.eye(len(likeness), dtype=likeness.dtype) - 1
    counted = pair.both.unsqueeze(0).to(likeness.dtype) * pair.both.unsqueeze(1).to(likeness.dtype)
    return -(functional.logsigmoid(own * likeness) * counted).sum(dim=1)


_CONTRASTS: dict[str, Callable[[Paired, float], Tensor]] = {"anchor": _anchor, "infonce": _infonce, "siglip": _siglip}
