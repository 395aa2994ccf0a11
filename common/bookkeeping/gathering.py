"""From calls to pieces: each subject's gradient of each parameter once, whatever used the parameter for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from common.bookkeeping.memory import buffer
from common.bookkeeping.pieces import Dense, Outer, quick_squares, squares_of
from common.bookkeeping.recording import Call
from common.bookkeeping.rows import NO_ROW, RowIndex
from common.bookkeeping.rules import element_gradients, is_free, is_lent


@dataclass(frozen=True)
class Gathering:
    """The pieces that were made so far, with the squared norms of what was made: float64 [slot], and one for nobody.

    A parameter of which each subject has one element at most keeps what its rules gave. Where a subject has several, of
    several rows, calls or layers, they are added up when all are there, in the order of its rows, then of the calls; so
    who else is there, and with it which call a row is in, changes no rounding.
    """

    rows: RowIndex
    squares: Tensor
    pieces: list[tuple[str, Dense | Outer]] = field(default_factory=list)
    several: dict[str, list[tuple[Call, Dense | Outer]]] = field(default_factory=dict)
    lent: list[tuple[str, Dense | Outer]] = field(default_factory=list)
    _places: dict[int, Tensor | None] = field(default_factory=dict)

    def expect(self, calls: list[Call]) -> None:
        """Find out which parameters have several elements of one subject in these calls."""
        rows: dict[str, list[Tensor | None]] = {}
        for call in calls:
            for name in call.layer.own.values():
                rows.setdefault(name, []).append(call.rows)
        known: dict[tuple[int, ...], bool] = {}
        for name, found in rows.items():
            key = tuple(map(id, found))
            if key not in known:
                known[key] = self._repeats(found)
            if known[key]:
                self.several[name] = []

    def take(self, call: Call, above: Tensor) -> None:
        """Make the pieces of one call from the gradient of its output."""
        for name, piece in _made(call, above, self._of(call.rows)):
            if name in self.several:
                self.several[name].append((call, piece))
            elif is_lent(call.layer.module, call.seen):
                self.lent.append((name, piece))
            else:
                self._keep(name, piece)

    def finish(self) -> None:
        """Add up what a subject has several of.

        What the model's own hooks can still write over is counted only now that none runs any more: a norm taken
        earlier would be that of other numbers than are summed.
        """
        for name, piece in self.lent:
            self._keep(name, piece)
        for name, found in self.several.items():
            found.sort(key=lambda one: one[0].place)
            for piece in self._joined(found):
                self._keep(name, piece)
            found.clear()

    def recount(self) -> None:
        """Compute the squares again, those too large for float32 too, and drop gradients whose norms are not finite."""
        pieces = self.pieces.copy()
        self.pieces.clear()
        self.squares.zero_()
        for name, piece in pieces:
            squares = piece.squares(squares_of)
            self._count(piece, squares)
            self.pieces.append((name, piece.only(torch.isfinite(squares))))

    def _keep(self, name: str, piece: Dense | Outer) -> None:
        self._count(piece, piece.squares(quick_squares))
        self.pieces.append((name, piece))

    def _count(self, piece: Dense | Outer, squares: Tensor) -> None:
        if piece.places is None:
            self.squares[:-1].add_(squares)
        else:
            self.squares.index_add_(0, piece.places, squares)

    def _of(self, rows: Tensor | None) -> Tensor | None:
        """The slots of a call's elements; that of nobody, the last one, for rows of nobody and for fillings."""
        if rows is None and self.rows.alone:
            return None
        if id(rows) not in self._places:
            slots, nobody = self.rows.slots(), len(self.rows)
            if rows is not None:
                slots = torch.where(rows < 0, NO_ROW, slots[rows.clamp(min=0)])
            self._places[id(rows)] = torch.where(slots < 0, nobody, slots)
        return self._places[id(rows)]

    def _repeats(self, rows: list[Tensor | None]) -> bool:
        places = [self._of(one) for one in rows]
        if len(places) == 1 and places[0] is None:
            return False
        return bool((self._times(places)[:-1] > 1).any())

    def _times(self, places: list[Tensor | None]) -> Tensor:
        """How many elements each slot has, and nobody."""
        order, nobody = torch.arange(len(self.rows)), len(self.rows)
        return torch.bincount(torch.cat([order if one is None else one for one in places]), minlength=nobody + 1)

    def _joined(self, found: list[tuple[Call, Dense | Outer]]) -> list[Dense | Outer]:
        """Leave elements that are a subject's only one as they are; add the others up: [slot, coordinate]."""
        if not found:
            return []
        nobody = len(self.rows)
        call, piece = found[0]
        if len(found) == 1 and isinstance(piece, Dense) and call.rows is None and piece.places is not None:
            total = buffer((nobody + 1, piece.gradients.shape[1]), piece.gradients.dtype).zero_()
            return [Dense(total.index_add_(0, piece.places, piece.gradients)[:-1])]
        order, single = torch.arange(nobody), self._times([piece.places for _, piece in found]) == 1
        left: list[Dense | Outer] = []
        rows, slots, gradients = [], [], []
        for call, piece in found:
            places = order if piece.places is None else piece.places
            alone, nobodys = single[places], places == nobody
            if bool(alone.any()):
                left.append(replace(piece, places=torch.where(alone, places, nobody)))
            added = ~(alone | nobodys)
            rows.append((order if call.rows is None else call.rows)[added])
            slots.append(places[added])
            gradients.append(piece.of(added))
        joined, sequence = torch.cat(gradients), torch.argsort(torch.cat(rows), stable=True)
        total = joined.new_zeros(nobody, joined.shape[1])
        return [*left, Dense(total.index_add_(0, torch.cat(slots)[sequence], joined[sequence]))]


def _made(call: Call, above: Tensor, places: Tensor | None) -> Iterator[tuple[str, Dense | Outer]]:
    own, module = call.layer.own, call.layer.module
    if is_free(module, call.seen):
        exact = torch.float64 if above.dtype == torch.float64 else torch.float32
        left, right = (part.reshape(len(part), part.shape[-1]).to(exact) for part in (above, call.seen))
        if "weight" in own:
            yield own["weight"], Outer(left, right, places)
        if "bias" in own:
            yield own["bias"], Dense(left, places)
        return
    for key, gradient in element_gradients(module, call.seen, above).items():
        if key in own:
            yield own[key], Dense(gradient.flatten(1), places)
