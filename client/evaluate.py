"""Count this site's held-out subjects into the table that evaluation and audit release."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.data.batch import Batch, hide, parts_of
from common.fairness.table import TableLayout, fill
from common.models.loss import scores

MOST_ROWS = 64


def count_table(model: nn.Module, batch: Batch, layout: TableLayout, *, rows: int = 0) -> NDArray[np.int64]:
    """Run the model under every modality condition and count what it says.

    Every held-out subject is counted under every condition, also one who holds nothing of what may be seen: the model
    answers for such a subject too, and the conditions stay comparable.

    Args:
        model: the model to evaluate.
        batch: this site's held-out rows.
        layout: the table to fill.
        rows: how many rows may go through the model together; 0: MOST_ROWS.

    Guarantees:
        one subject, one contribution: the model answers in parts of one fixed shape, so that taking a subject out moves
            no other subject's score, not by a rounding error either, whatever weights the model was given.

    Returns:
        [cell] integer counts, raw: nothing here is noised yet, and nothing of it may leave but through the gate.
    """
    said = {
        condition.name: answers(model, hide(batch, condition.keep), layout.kind, rows=rows)
        for condition in layout.conditions
    }
    return fill(
        layout,
        said,
        batch.labels[layout.task].numpy(),
        {name: level.numpy() for name, level in batch.attributes.items()},
        batch.subjects.numpy(),
    )


def answers(model: nn.Module, batch: Batch, kind: str, *, rows: int = 0) -> NDArray[np.float64]:
    """What the model says of each row for a task of this kind, [row, 1, class or label]; of nobody nothing, [0, 1]."""
    if not len(batch.subjects):
        return np.zeros((0, 1))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            said = [scores(model(part), kind) for part in parts_of(batch, min(rows or MOST_ROWS, MOST_ROWS))]
            return np.asarray(torch.cat(said)[: len(batch)].double().numpy())
    finally:
        model.train(training)
