from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.evaluate import count_table
from common.data.batch import Batch
from common.fairness.table import TableLayout, conditions_of, unflatten
from common.models.outputs import Outputs

LAYOUT = TableLayout(
    "disease",
    "binary",
    conditions_of(["ecg", "labs", "note"]),
    (("sex", "female"), ("sex", "male")),
    ("0", "1"),
    10,
)


class SumOfWhatItSees(nn.Module):
    """One logit: the sum of all values in sight, plus a bias that training mode would change."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Linear(1, 1)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.bias.bias)

    def forward(self, batch: Batch) -> Outputs:
        total = sum((values.sum(dim=(1, 2)) for values in batch.values.values()), torch.zeros(len(batch)))
        shift = 100.0 if self.training else 0.0
        return Outputs(self.bias(total[:, None]) + total[:, None] + shift, {}, {})


def batch_of(**values: list[float]) -> Batch:
    columns: dict[str, Tensor] = {name: torch.tensor(column)[:, None, None] for name, column in values.items()}
    rows = len(next(iter(values.values())))
    return Batch(
        values=columns,
        mask={name: torch.ones(rows, 1, dtype=torch.bool) for name in columns},
        seconds={name: torch.zeros(rows, 1) for name in columns},
        labels={"disease": torch.tensor([1, 0, 1][:rows])},
        attributes={"sex": torch.tensor([0, 1, 1][:rows]), "age": torch.tensor([0, 0, 0][:rows])},
        subjects=torch.arange(rows),
    )


def test_each_condition_shows_the_model_only_its_modalities() -> None:
    batch = batch_of(ecg=[3.0, 0, 0], labs=[0.0, 3, 0], note=[-9.0, 0, 0])
    table = unflatten(LAYOUT, count_table(SumOfWhatItSees(), batch, LAYOUT))
    top, middle, bottom = 8, 5, 0  # log-odds of 3, 0 and -6 in ten bins
    women = {c.name: int(np.flatnonzero(table[n, 0, 1])[0]) for n, c in enumerate(LAYOUT.conditions)}
    assert women == {
        "all": bottom,
        "only:ecg": top,
        "only:labs": middle,
        "only:note": bottom,
        "without:ecg": bottom,
        "without:labs": bottom,
        "without:note": top,
    }


def test_every_subject_is_counted_under_every_condition() -> None:
    batch = batch_of(ecg=[3.0, 0, 0], labs=[0.0, 3, 0], note=[-9.0, 0, 0])
    table = unflatten(LAYOUT, count_table(SumOfWhatItSees(), batch, LAYOUT))
    assert table.sum(axis=(1, 2, 3)).tolist() == [3.0] * 7


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_asked_in_evaluation_mode_and_left_as_it_was(training: bool) -> None:
    model = SumOfWhatItSees().train(training)
    batch = batch_of(ecg=[-3.0, 0, 0], labs=[0.0, 0, 0], note=[0.0, 0, 0])
    table = unflatten(LAYOUT, count_table(model, batch, LAYOUT))
    assert table[0, 0, 1, 1] == 1
    assert model.training is training


def test_a_site_without_held_out_subjects_counts_nobody() -> None:
    empty = batch_of(ecg=[], labs=[], note=[])
    assert count_table(SumOfWhatItSees(), empty, LAYOUT).sum() == 0
