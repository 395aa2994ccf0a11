"""Per-subject gradients of one parameter, kept so that norms and the weighted sum cost one pass each over memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.bookkeeping.recording import Call
from common.bookkeeping.rules import element_gradients, is_free

_IN_CACHE = 1 << 16  # numbers that are float64 at a time: half a mebibyte


@dataclass(frozen=True)
class Dense:
    """Gradients that were instantiated: [slot, coordinate]."""

    gradients: Tensor

    def squares(self) -> Tensor:
        """Squared norms: float64 [slot], each a sum of squares in float64."""
        total = torch.zeros(len(self.gradients), dtype=torch.float64)
        for block in self._blocks():
            total += torch.linalg.vector_norm(block.double(), dim=1).square()
        return total

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
    """Gradients that are each one outer product, left[output] right[input], whose norm is free: float64 [slot, ...]."""

    left: Tensor
    right: Tensor

    def squares(self) -> Tensor:
        """Squared norms: float64 [slot]."""
        left, right = (torch.linalg.vector_norm(part, dim=1) for part in (self.left, self.right))
        return torch.square(left * right)

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """The sum over slots of factor times gradient, without those that are not finite: float64 [coordinate]."""
        left, right = self.left, self.right
        if not bool(finite.all()):  # 0 * inf would be NaN
            left, right = (part.masked_fill(~finite.unsqueeze(1), 0.0) for part in (left, right))
        total: Tensor = (factors.unsqueeze(1) * left).t() @ right
        return total.ravel()

    def whole(self) -> Tensor:
        """The gradients."""
        return (self.left.unsqueeze(2) * self.right.unsqueeze(1)).flatten(1).float()


def pieces_of(
    trainable: dict[str, nn.Parameter], calls: Iterable[tuple[Call, Tensor]], slots: Tensor
) -> dict[str, list[Dense | Outer]]:
    """Add up each subject's gradients by parameter, over its rows and over all calls, of tied layers too.

    A subject's gradients are added in the order of its rows, then of the calls, so that who else is there, and with it
    which call a row is in, changes no rounding.
    """
    names = {id(parameter): name for name, parameter in trainable.items()}
    dense: dict[str, list[tuple[Tensor, Tensor]]] = {}
    vectors: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for call, above in calls:
        rows = torch.arange(len(slots)) if call.rows is None else call.rows
        own = {key: names[id(part)] for key, part in call.module.named_parameters(recurse=False) if id(part) in names}
        if is_free(call.module, call.seen):
            exact = torch.float64 if above.dtype == torch.float64 else torch.float32
            left, right = (part.reshape(len(rows), part.shape[-1]).to(exact) for part in (above, call.seen))
            if "weight" in own:
                vectors.setdefault(own["weight"], []).append((rows, left, right))
            if "bias" in own:
                dense.setdefault(own["bias"], []).append((rows, left))
            continue
        for key, gradient in element_gradients(call.module, call.seen, above).items():
            if key in own:
                dense.setdefault(own[key], []).append((rows, gradient.flatten(1)))
    found: dict[str, list[Dense | Outer]] = {}
    for name in trainable:
        parts = list(dense.get(name, ()))
        if name in vectors:
            outer, rest = _outer(vectors[name], slots, alone=not parts)
            found.setdefault(name, []).extend(outer)
            parts.extend(rest)
        if parts:
            found.setdefault(name, []).append(Dense(_by_slot(parts, slots)))
    return found


def _outer(
    parts: list[tuple[Tensor, Tensor, Tensor]], slots: Tensor, *, alone: bool
) -> tuple[list[Outer], list[tuple[Tensor, Tensor]]]:
    """Outer products stay so where they are a subject's only one; the others have to be added up, instantiated."""
    rows, left, right = (torch.cat(each) for each in zip(*parts, strict=True))
    if alone and _in_place(rows, slots):
        return [Outer(left.double(), right.double())], []
    slot = torch.where(rows >= 0, slots[rows.clamp(min=0)], -1)
    kept = slot >= 0
    times = torch.bincount(slot[kept], minlength=len(slots))
    single = kept & (times[slot.clamp(min=0)] == 1) & alone
    outer = (
        [Outer(*(_placed(part[single].double(), slot[single], len(slots)) for part in (left, right)))] if alone else []
    )
    several = kept & ~single
    if not bool(several.any()):
        return outer, []
    products = (left[several].unsqueeze(2) * right[several].unsqueeze(1)).flatten(1)
    return outer, [(rows[several], products)]


def _placed(vectors: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    return vectors.new_zeros(num_slots, vectors.shape[1]).index_copy_(0, slot, vectors)


def _by_slot(parts: list[tuple[Tensor, Tensor]], slots: Tensor) -> Tensor:
    """Add gradients of rows up by slot: [slot, coordinate]."""
    rows, gradients = (torch.cat(each) if len(parts) > 1 else each[0] for each in zip(*parts, strict=True))
    if _in_place(rows, slots):
        return gradients
    slot = torch.where(rows >= 0, slots[rows.clamp(min=0)], -1)
    sequence = torch.argsort(rows, stable=True)
    sequence = sequence[slot[sequence] >= 0]
    found = gradients.new_zeros(len(slots), gradients.shape[1])
    return found.index_add_(0, slot[sequence], gradients[sequence])


def _in_place(rows: Tensor, slots: Tensor) -> bool:
    """Whether these are all rows in order, each of them some subject's only row or nobody's."""
    order = torch.arange(len(slots))
    return len(rows) == len(slots) and torch.equal(rows, order) and bool(((slots == order) | (slots < 0)).all())
