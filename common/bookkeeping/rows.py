"""Whose each row is: of a part, and of a call that sees only some of the part's rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NO_ROW = -1
"""In a call's rows: an element that only fills up the call's fixed shape."""

_rows_of_call: ContextVar[Tensor | None] = ContextVar("rows_of_call", default=None)


@dataclass(frozen=True)
class RowIndex:
    """Whose each row is: subjects is int64 [row]; a negative subject is nobody and counts for nothing."""

    subjects: Tensor

    def __len__(self) -> int:
        """Number of rows, those of nobody too."""
        return len(self.subjects)

    def slots(self) -> Tensor:
        """Give each row the place of its subject's first row: int64 [row]; -1 for rows of nobody.

        As many slots as rows, whoever they belong to, so that no shape depends on how many subjects there are.
        """
        if self.alone:
            return torch.arange(len(self))
        _, who = torch.unique(self.subjects, return_inverse=True)
        first = torch.full_like(who, len(who)).scatter_reduce_(0, who, torch.arange(len(who)), "amin")
        return torch.where(self.subjects >= 0, first[who], NO_ROW)

    def firsts(self) -> Tensor:
        """Whether each row is its subject's first: bool [row]."""
        return self.slots() == torch.arange(len(self))

    def weights(self) -> Tensor:
        """Give each row its part of its subject's mean loss: float64 [row], 0 for nobody."""
        if self.alone:
            return torch.ones(len(self), dtype=torch.float64)
        _, who, counts = torch.unique(self.subjects, return_inverse=True, return_counts=True)
        return torch.where(self.subjects >= 0, 1.0 / counts.double()[who], 0.0)

    @cached_property
    def alone(self) -> bool:
        """Whether it is plain to see, because they ascend, that each row is a subject of its own."""
        ascend = bool((self.subjects[1:] > self.subjects[:-1]).all())
        return ascend and len(self) > 0 and int(self.subjects[0]) >= 0


@contextmanager
def for_rows(rows: Tensor) -> Iterator[None]:
    """Say which row of the part each leading element of the calls inside belongs to: int64, `NO_ROW` for fillings.

    Raises:
        ValueError: the rows were overwritten before the end, so that it is not clear which ones a call meant.
    """
    kept = rows.clone()  # afterwards they may be overwritten: the calls' gradients come later
    before = _rows_of_call.set(kept)
    try:
        yield
    finally:
        _rows_of_call.reset(before)
    if not torch.equal(rows, kept):
        raise ValueError("the rows that for_rows was given were overwritten inside")


def rows_of_call() -> Tensor | None:
    """What the innermost `for_rows` says; None: a call's elements are the part's rows in their order."""
    return _rows_of_call.get()


def chunks_of(present: Tensor, size: int) -> Iterator[Tensor]:
    """Cut the rows where bool [row] is True into calls of exactly `size` rows, in order; `NO_ROW` fills up the last."""
    for chunk in torch.split(present.nonzero()[:, 0], size):
        yield torch.nn.functional.pad(chunk, (0, size - len(chunk)), value=NO_ROW)


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Give these rows of values [row, ...]: zeros for `NO_ROW`, through which no gradient flows, not even 0 * inf."""
    missing = (rows < 0).view(-1, *(1,) * (values.dim() - 1))
    return values[rows.clamp(min=0)].masked_fill(missing, 0)
