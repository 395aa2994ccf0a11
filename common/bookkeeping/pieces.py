"""Per-subject gradients of one parameter, kept so that norms and the weighted sum cost one pass each over memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.bookkeeping.recording import Call
from common.bookkeeping.rows import NO_ROW
from common.bookkeeping.rules import element_gradients, is_free

_IN_CACHE = 1 << 16  # numbers that are float64 at a time: half a mebibyte
_BLOCK, _RAISED = 32, 1 + 2.0**-18
_SMALLEST = 2.0**-126
_FEW = 256  # of so few coordinates a row, float64 is as fast


@dataclass(frozen=True)
class Dense:
    """Gradients that were instantiated: [slot, coordinate]."""

    gradients: Tensor

    def squares(self) -> Tensor:
        """Squared norms, never too small: float64 [slot]."""
        return squares_of(self.gradients)

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """The sum over slots of factor times gradient, without those that are not finite: float64 [coordinate]."""
        blocks = (block.double() for block in self._blocks())
        if not bool(finite.all()):  # 0 * inf would be NaN
            blocks = (block.masked_fill(~finite.unsqueeze(1), 0.0) for block in blocks)
        return torch.cat([factors @ block for block in blocks])

    def whole(self) -> Tensor:
        """The gradients."""
        return self.gradients

    def _blocks(self) -> tuple[Tensor, ...]:
        return torch.split(self.gradients, max(64, _IN_CACHE // max(1, len(self.gradients))), dim=1)


@dataclass(frozen=True)
class Outer:
    """Gradients that are each one outer product, left[output] right[input], whose norm is free: [slot, ...]."""

    left: Tensor
    right: Tensor

    def squares(self) -> Tensor:
        """Squared norms, never too small: float64 [slot]."""
        return squares_of(self.left) * squares_of(self.right)

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """The sum over slots of factor times gradient, without those that are not finite: float64 [coordinate]."""
        left, right = self.left.double(), self.right.double()
        if not bool(finite.all()):  # 0 * inf would be NaN
            left, right = (part.masked_fill(~finite.unsqueeze(1), 0.0) for part in (left, right))
        total: Tensor = (factors.unsqueeze(1) * left).t() @ right
        return total.ravel()

    def whole(self) -> Tensor:
        """The gradients."""
        return (self.left.unsqueeze(2) * self.right.unsqueeze(1)).flatten(1)


def squares_of(vectors: Tensor) -> Tensor:
    """Squared norms of vectors [row, coordinate], raised above the true ones: float64 [row], by up to 4e-6 of them.

    Float32 adds up blocks of 32 squares only, float64 the blocks. A block's norm, squared, is too small by at most 36
    units of 2^-24 (32 products, 31 sums, whichever their order, and a root), for which 64 are added, and by 2^-126 a
    coordinate where squares are below what float32 holds. Where float32 overflows, the row is computed in float64.
    Source: Higham 2002, sections 3.1 and 4.2.
    """
    width = vectors.shape[1]
    whole = 0 if vectors.dtype == torch.float64 or width < _FEW else width // _BLOCK * _BLOCK
    total: Tensor = torch.linalg.vector_norm(vectors[:, whole:], dim=1, dtype=torch.float64).square()
    if whole:
        blocks = torch.linalg.vector_norm(vectors[:, :whole].reshape(len(vectors), -1, _BLOCK), dim=2)
        first: Tensor = torch.linalg.vector_norm(blocks, dim=1, dtype=torch.float64).square()
        total = first * _RAISED + width * _SMALLEST + total
        for row in (~torch.isfinite(total)).nonzero()[:, 0].tolist():
            total[row] = torch.linalg.vector_norm(vectors[row].double()).square()
    return total


def pieces_of(
    trainable: dict[str, nn.Parameter], calls: Iterable[tuple[Call, Tensor]], slots: Tensor
) -> dict[str, list[Dense | Outer]]:
    """Add up each subject's gradients by parameter, over its rows and over all calls, of tied layers too.

    A subject's gradients are added in the order of its rows, then of what used them, so that who else is there, and
    with it which call a row is in, changes no rounding.
    """
    names = {id(parameter): name for name, parameter in trainable.items()}
    order = torch.arange(len(slots))
    found: dict[str, list[Dense | Outer]] = {name: [] for name in trainable}
    places = _Places(slots, order, own=bool(((slots == order) | (slots < 0)).all()))
    dense: dict[str, list[tuple[Tensor | None, Tensor]]] = {}
    vectors: dict[str, list[tuple[Tensor | None, Tensor, Tensor]]] = {}
    for call, above in calls:
        own = {key: names[id(part)] for key, part in call.module.named_parameters(recurse=False) if id(part) in names}
        if is_free(call.module, call.seen):
            exact = torch.float64 if above.dtype == torch.float64 else torch.float32
            left, right = (part.reshape(len(part), part.shape[-1]).to(exact) for part in (above, call.seen))
            if "weight" in own:
                vectors.setdefault(own["weight"], []).append((call.rows, left, right))
            if "bias" in own:
                dense.setdefault(own["bias"], []).append((call.rows, left))
            continue
        for key, gradient in element_gradients(call.module, call.seen, above).items():
            if key in own:
                dense.setdefault(own[key], []).append((call.rows, gradient.flatten(1)))
    for name, several in vectors.items():
        outer, rest = _outer(several, places, alone=name not in dense)
        found[name].extend(outer)
        dense.setdefault(name, []).extend(rest)
    for name, parts in dense.items():
        if parts:
            found[name].append(Dense(_by_slot(parts, places)))
    return found


@dataclass(frozen=True)
class _Places:
    """Each row's slot, all rows in order, and whether no two rows have one slot."""

    slots: Tensor
    order: Tensor
    own: bool

    def of(self, rows: Tensor) -> Tensor:
        """The slots of some rows; -1 where the row is nobody's or none."""
        return torch.where(rows >= 0, self.slots[rows.clamp(min=0)], NO_ROW)

    def joined(self, rows: list[Tensor | None]) -> Tensor:
        """The rows of several calls, one after the other."""
        return torch.cat([self.order if one is None else one for one in rows])


def _outer(
    parts: list[tuple[Tensor | None, Tensor, Tensor]], places: _Places, *, alone: bool
) -> tuple[list[Outer], list[tuple[Tensor | None, Tensor]]]:
    """Outer products stay so where they are a subject's only one; the others have to be added up, instantiated."""
    if alone and places.own and len(parts) == 1 and parts[0][0] is None:
        return [Outer(parts[0][1], parts[0][2])], []
    rows = places.joined([part[0] for part in parts])
    left, right = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    slot, num_slots = places.of(rows), len(places.slots)
    kept = slot >= 0
    times = torch.bincount(slot[kept], minlength=num_slots)
    single = kept & (times[slot.clamp(min=0)] == 1) & alone
    outer = [Outer(*(_placed(part[single], slot[single], num_slots) for part in (left, right)))] if alone else []
    several = kept & ~single
    if not bool(several.any()):
        return outer, []
    products = (left[several].unsqueeze(2) * right[several].unsqueeze(1)).flatten(1)
    return outer, [(rows[several], products)]


def _placed(vectors: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    return vectors.new_zeros(num_slots, vectors.shape[1]).index_copy_(0, slot, vectors)


def _by_slot(parts: list[tuple[Tensor | None, Tensor]], places: _Places) -> Tensor:
    """Add gradients of rows up by slot: [slot, coordinate]."""
    if places.own and len(parts) == 1 and parts[0][0] is None:
        return parts[0][1]
    rows = places.joined([part[0] for part in parts])
    gradients = torch.cat([part[1] for part in parts]) if len(parts) > 1 else parts[0][1]
    slot, sequence = places.of(rows), torch.argsort(rows, stable=True)
    sequence = sequence[slot[sequence] >= 0]
    found = gradients.new_zeros(len(places.slots), gradients.shape[1])
    return found.index_add_(0, slot[sequence], gradients[sequence])
