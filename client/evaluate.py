"""Count this site's held-out subjects into the table that evaluation and audit release."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.data.batch import Batch, hide
from common.fairness.table import TableLayout, fill
from common.models.loss import scores


def count_table(model: nn.Module, batch: Batch, layout: TableLayout) -> NDArray[np.int64]:
    """Run the model under every modality condition and count what it says.

    Every held-out subject is counted under every condition, also one who holds nothing of what may be seen: the model
    answers for such a subject too, and the conditions stay comparable.

    Args:
        model: the model to evaluate.
        batch: this site's held-out rows.
        layout: the table to fill.

    Returns:
        [cell] integer counts, raw: nothing here is noised yet, and nothing of it may leave but through the gate.
    """
    said = {condition.name: _scores(model, batch, condition.keep) for condition in layout.conditions}
    return fill(
        layout,
        said,
        batch.labels[layout.task].numpy(),
        {name: level.numpy() for name, level in batch.attributes.items()},
        batch.subjects.numpy(),
    )


def _scores(model: nn.Module, batch: Batch, keep: tuple[str, ...]) -> NDArray[np.float64]:
    """[row, 1] or [row, class] chances, with only these modalities in sight."""
    if not len(batch.subjects):
        return np.zeros((0, 1))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return np.asarray(scores(model(hide(batch, keep))).double().numpy())
    finally:
        model.train(training)
