"""Count this site's held-out subjects into the table that evaluation and audit release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.data.batch import Batch, hide, parts_of
from common.data.readers.texts import text_of
from common.fairness.table import TableLayout, fill
from common.fairness.texts import fill_texts
from common.metrics.texts import score_texts
from common.models.loss import scores
from common.models.transformer import TransformerModel

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
    subjects = batch.subjects.numpy()
    levels = {name: level.numpy() for name, level in batch.attributes.items()}
    counts = fill(layout, said, batch.labels[layout.task].numpy(), levels, subjects)
    if not layout.told:
        return counts
    written = {one.name: written_texts(model, hide(batch, one.keep), rows=rows) for one in layout.conditions}
    scored = {
        condition: {name: score_texts(own, true_texts(batch, name)) for name, own in texts.items()}
        for condition, texts in written.items()
    }
    return np.concatenate([counts, fill_texts(layout, scored, subjects)])


def written_texts(model: nn.Module, batch: Batch, *, rows: int = 0) -> dict[str, list[str]]:
    """Let a model write the texts that it was taught to tell: by modality, one a row. Nothing of them leaves a site."""
    teller = cast("TransformerModel", model)
    parts = parts_of(batch, min(rows or MOST_ROWS, MOST_ROWS))
    with _asking(model):
        said = [teller.write(part) for part in parts]
    names = said[0] if said else {}
    return {name: [text_of(row) for part in said for row in part[name].numpy()][: len(batch)] for name in names}


def true_texts(batch: Batch, name: str) -> list[str]:
    """What stands in a row's text: one a row, "" where there is none."""
    tokens = batch.values[name] * batch.mask[name]
    return [text_of(row) for row in tokens.numpy()]


def answers(model: nn.Module, batch: Batch, kind: str, *, rows: int = 0) -> NDArray[np.float64]:
    """What the model says of each row for a task of this kind, [row, 1, class or label]; of nobody nothing, [0, 1]."""
    if not len(batch.subjects):
        return np.zeros((0, 1))
    with _asking(model):
        said = [scores(model(part), kind) for part in parts_of(batch, min(rows or MOST_ROWS, MOST_ROWS))]
        return np.asarray(torch.cat(said)[: len(batch)].double().numpy())


@contextmanager
def _asking(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and left as it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
