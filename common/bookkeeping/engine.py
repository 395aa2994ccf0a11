"""The sum of clipped per-subject gradients of any model whose layers have rules: one forward and one backward pass.

A subject's gradient is the mean of its rows' gradients, and is clipped once, jointly over all parameters. What counts
as a row's gradient are the very float32 numbers that are summed, whatever precision the model ran in. Their norms are
raised above the true ones by a proved margin, at most 8e-6 of them (`squares_of`). Sums are taken in float64: in
float32 the sum of n subjects rounds by up to gamma_n * n * C, a thousandth of C for 128 of them, and how it rounds
depends on who is in it; in float64 it is 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.bookkeeping.gathering import Gathering
from common.bookkeeping.memory import begin_part, buffer
from common.bookkeeping.pieces import ROOM
from common.bookkeeping.recording import go_back, go_forth
from common.bookkeeping.rows import RowIndex
from common.bookkeeping.rules import Layer, layers_of

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


def part_sum(
    model: nn.Module,
    losses: Callable[[], Tensor],
    rows: RowIndex,
    *,
    clip_norm: float,
    onto: dict[str, Tensor] | None = None,
) -> ClippedSum:
    """As `clipped_sum`, with the count of subjects left out; a clip_norm of infinity clips nothing.

    Where there is an earlier part's sum, `onto`, this part's is added to it in its place.

    Raises:
        ValueError: per-row gradients would not be exact.
    """
    layers, trainable = layers_of(model)
    gradients = _zeros(trainable) if onto is None else onto
    if not len(rows):
        return ClippedSum(gradients, 0)
    gathered = _gathered(layers, trainable, losses, rows)
    clean = math.isfinite(float(gathered.squares.sum()))
    if not clean:
        gathered.recount()
    squares = gathered.squares[:-1]
    factors = (clip_norm / rounded_up(squares.sqrt(), sum(part.numel() for part in trainable.values()))).clamp_(max=1.0)
    nonfinite = 0
    if not (clean and rows.alone):
        subjects, finite = rows.firsts(), torch.isfinite(squares)
        factors = torch.where(subjects & finite, factors, 0.0)
        nonfinite = int((subjects & ~finite).sum())
    room = buffer((ROOM,), torch.float64)
    own = {id(None): factors}  # of elements, by their places
    for name, piece in gathered.pieces:
        if id(piece.places) not in own:
            own[id(piece.places)] = functional.pad(factors, (0, 1))[piece.places]
        piece.add_to(gradients[name].view(-1), own[id(piece.places)], room)
    return ClippedSum(gradients, nonfinite)


def _gathered(
    layers: list[Layer], trainable: dict[str, nn.Parameter], losses: Callable[[], Tensor], rows: RowIndex
) -> Gathering:
    begin_part()
    gathered = Gathering(rows, torch.zeros(len(rows) + 1, dtype=torch.float64))
    found, calls = go_forth(layers, trainable, losses, len(rows))
    gathered.expect(calls)
    # One number, each row's loss weighted: to check a gradient that it is given for a vector, torch imports 40 MB.
    go_back(found.sum() if rows.alone else torch.dot(found, rows.weights().to(found.dtype)), calls, gathered.take)
    gathered.finish()
    return gathered


def _zeros(trainable: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: torch.zeros(part.shape, dtype=torch.float64) for name, part in trainable.items()}


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
    layers, trainable = layers_of(model)
    found = {name: torch.zeros(len(rows), part.numel(), dtype=part.dtype) for name, part in trainable.items()}
    gathered, everyone = _gathered(layers, trainable, losses, rows), torch.arange(len(rows))
    for name, piece in gathered.pieces:
        places = everyone if piece.places is None else piece.places
        somebodys = places < len(rows)
        found[name].index_add_(0, places[somebodys], piece.of(somebodys).to(found[name].dtype))
    return torch.cat(list(found.values()), dim=1)
