"""Gradients of elements, kept so that their norms and their weighted sum cost one pass each over memory.

An element is one row in one call. `places` says which subject's slot each belongs to; None: element i is slot i's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROOM = 1 << 18  # numbers that are float64 at a time, for a sum: two mebibytes
_BLOCK, _RAISED = 64, 1 + 2.0**-17
_SMALLEST = 2.0**-126
_FEW = 256  # of so few coordinates an element, float64 is as fast


Rule = Callable[[Tensor], Tensor]
"""`quick_squares`, or `squares_of` where these are not all finite."""


@dataclass(frozen=True)
class Dense:
    """Gradients that were instantiated: [element, coordinate]."""

    gradients: Tensor
    places: Tensor | None = None

    def squares(self, rule: Rule) -> Tensor:
        """Squared norms, never too small: float64 [element]."""
        return rule(self.gradients)

    def add_to(self, total: Tensor, factors: Tensor, room: Tensor) -> None:
        """Add each gradient times its factor: total [coordinate], factors [element], room [ROOM], all float64."""
        elements, width = self.gradients.shape
        if elements * width <= ROOM // 4:
            total.addmv_(self.gradients.double().t(), factors)
            return
        columns = min(width, ROOM // 4)
        rows = min(elements, ROOM // columns)
        for left in range(0, width, columns):
            for top in range(0, elements, rows):
                some = self.gradients[top : top + rows, left : left + columns]
                block = room[: some.numel()].view(some.shape).copy_(some)
                total[left : left + columns].addmv_(block.t(), factors[top : top + rows])

    def only(self, kept: Tensor) -> Dense:
        """The same with zeros in place of the elements that are not kept: bool [element]."""
        return Dense(self.gradients.masked_fill(~kept.unsqueeze(1), 0.0), self.places)

    def of(self, elements: Tensor) -> Tensor:
        """The gradients of some elements, bool [element]: [some, coordinate]."""
        return self.gradients[elements]


@dataclass(frozen=True)
class Outer:
    """Gradients that are each one outer product, left[output] right[input], whose norm is free: [element, ...]."""

    left: Tensor
    right: Tensor
    places: Tensor | None = None

    def squares(self, rule: Rule) -> Tensor:
        """Squared norms, never too small: float64 [element]."""
        return rule(self.left).mul_(rule(self.right))

    def add_to(self, total: Tensor, factors: Tensor, room: Tensor) -> None:
        """Add each gradient times its factor: total [coordinate], factors [element], room [ROOM], all float64."""
        elements, width = self.right.shape
        weighted = (self.left * factors.unsqueeze(1)).t()
        rows = min(elements, max(1, ROOM // 4 // width))  # that are read again at once, and should be near
        room = room if rows * width <= ROOM else room.new_empty(width)
        for top in range(0, elements, rows):
            some = self.right[top : top + rows]
            block = room[: some.numel()].view(some.shape).copy_(some)
            total.view(-1, width).addmm_(weighted[:, top : top + rows], block)

    def only(self, kept: Tensor) -> Outer:
        """The same with zeros in place of the elements that are not kept: bool [element]."""
        gone = ~kept.unsqueeze(1)
        return Outer(self.left.masked_fill(gone, 0.0), self.right.masked_fill(gone, 0.0), self.places)

    def of(self, elements: Tensor) -> Tensor:
        """The gradients of some elements, bool [element]: [some, coordinate]."""
        return (self.left[elements].unsqueeze(2) * self.right[elements].unsqueeze(1)).flatten(1)


def quick_squares(vectors: Tensor) -> Tensor:
    """Squared norms of vectors [row, coordinate], raised above the true ones: float64 [row], by up to 8e-6 of them.

    Float32 adds up blocks of 64 squares only, float64 the blocks. A block's norm, squared, is too small by at most 68
    units of 2^-24 (a product, 63 sums, whichever their order, and a root), for which 128 are added, and by 2^-126 a
    coordinate where squares are below what float32 holds. Where float32 overflows, they are infinite.
    Source: Higham 2002, sections 3.1 and 4.2.
    """
    width = vectors.shape[1]
    whole = 0 if vectors.dtype == torch.float64 or width < _FEW else width // _BLOCK * _BLOCK
    if not whole:
        return _squares(vectors)
    blocks = torch.linalg.vector_norm(vectors[:, :whole].reshape(len(vectors), -1, _BLOCK), dim=2)
    total = _squares(blocks).mul_(_RAISED).add_(width * _SMALLEST)
    return total if whole == width else total.add_(_squares(vectors[:, whole:]))


def squares_of(vectors: Tensor) -> Tensor:
    """As `quick_squares`; a row where float32 overflows is computed in float64."""
    total = quick_squares(vectors)
    for row in (~torch.isfinite(total)).nonzero()[:, 0].tolist():
        total[row] = torch.linalg.vector_norm(vectors[row].double()).square()
    return total


def _squares(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    return norms.square_()
