"""The sum of clipped per-subject gradients of any model whose layers have rules: one forward and one backward pass.

A subject's gradient is the mean of its rows' gradients, and is clipped once, jointly over all parameters. What counts
as a row's gradient are the very float32 numbers that are summed, whatever precision the model ran in. Their norms are
raised above the true ones by a proved margin, at most 4e-6 of them (`squares_of`). Sums are taken in float64: in
float32 the sum of n subjects rounds by up to gamma_n * n * C, a thousandth of C for 128 of them, and how it rounds
depends on who is in it; in float64 it is 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.bookkeeping.memory import begin_part
from common.bookkeeping.pieces import pieces_of
from common.bookkeeping.recording import record
from common.bookkeeping.rows import RowIndex
from common.bookkeeping.rules import refuse_uncovered

__all__ = ["ClippedSum", "clipped_sum", "part_sum", "rounded_up", "row_gradients"]

_UNIT = 2.0**-53


@dataclass(frozen=True)
class ClippedSum:
    """A sum over subjects of gradients clipped to a clip norm: clipped, not yet noised. It must not leave.

    Attributes:
        gradients: by parameter, float64, of the parameter's shape.
        num_nonfinite: subjects whose gradient was not finite and who contributed zero; private as well.
    """

    gradients: dict[str, Tensor]
    num_nonfinite: int


def clipped_sum(
    model: nn.Module, losses: Callable[[], Tensor], rows: RowIndex, *, clip_norm: float
) -> dict[str, Tensor]:
    """Sum the clipped gradients of a part's subjects: by trainable parameter, float64. It must not leave.

    Args:
        model: every trainable parameter of it is covered by a rule.
        losses: runs the model on the part and gives one loss a row, each of which depends on its own row only.
        rows: whose each row is. A subject with rows in two calls of this function would be clipped twice.
        clip_norm: how far one subject's gradient may reach in L2 norm.

    Guarantees:
        bounded: leaving out one subject moves the sum by at most clip_norm, up to rounding of 1e-12 of it, where
            `losses` computes the others' rows as before: keep the number of rows, and give the place to nobody.
        never under-estimated: norms are of the very numbers that are summed, raised by a proved margin.
        finite: a subject whose gradient is not finite contributes zero, and nobody else's contribution changes.
        memory: inside `reused_memory` the next call uses this one's again, which is faster.
        missing rows cost nothing: inside `for_rows`, a layer's work is that of the rows which it is given.

    Raises:
        ValueError: clip_norm is not above 0 and finite, or per-row gradients would not be exact.
    """
    if not 0 < clip_norm < float("inf"):
        raise ValueError(f"clip_norm must be > 0 and finite, got {clip_norm}")
    return part_sum(model, losses, rows, clip_norm=clip_norm).gradients


def part_sum(model: nn.Module, losses: Callable[[], Tensor], rows: RowIndex, *, clip_norm: float) -> ClippedSum:
    """As `clipped_sum`, with the count of subjects left out; a clip_norm of infinity clips nothing.

    Raises:
        ValueError: per-row gradients would not be exact.
    """
    refuse_uncovered(model)
    trainable = {name: part for name, part in model.named_parameters() if part.requires_grad}
    slots = rows.slots()
    begin_part()
    pieces = pieces_of(trainable, record(model, losses, rows), slots) if len(rows) else {}
    squares = torch.zeros(len(rows), dtype=torch.float64)
    for found in pieces.values():
        for piece in found:
            squares += piece.squares()
    finite = torch.isfinite(squares)
    size = sum(part.numel() for part in trainable.values())
    factors = (clip_norm / rounded_up(squares.sqrt(), size)).clamp(max=1.0)
    subjects = slots == torch.arange(len(rows))  # at its first row
    factors = torch.where(finite & subjects, factors, 0.0)
    gradients = {}
    for name, parameter in trainable.items():
        total = torch.zeros(parameter.shape, dtype=torch.float64)
        for piece in pieces.get(name, ()):
            total += piece.weighted(factors, finite).view(parameter.shape)
        gradients[name] = total
    return ClippedSum(gradients, int((subjects & ~finite).sum()))


def rounded_up(norms: Tensor, size: int) -> Tensor:
    """Raise float64 norms of `size` coordinates to above the true ones.

    Source: Higham 2002, section 4.2: a sum of k squares is too small by at most k + 2 units, whichever its order.
    """
    return norms * (1 + (size + 8) * 2 * _UNIT)


def row_gradients(model: nn.Module, losses: Callable[[], Tensor], rows: RowIndex) -> Tensor:
    """The gradients themselves, for tests of a machine and a model: [row, coordinate], a subject's at its first row.

    Raises:
        ValueError: per-row gradients would not be exact.
    """
    refuse_uncovered(model)
    trainable = {name: part for name, part in model.named_parameters() if part.requires_grad}
    begin_part()
    pieces = pieces_of(trainable, record(model, losses, rows), rows.slots())
    found = []
    for name, parameter in trainable.items():
        whole = torch.zeros(len(rows), parameter.numel(), dtype=parameter.dtype)
        for piece in pieces.get(name, ()):
            whole = whole + piece.whole()
        found.append(whole)
    return torch.cat(found, dim=1)
