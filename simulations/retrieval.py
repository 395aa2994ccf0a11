"""How well one modality finds its own record's partner in another, at each site: measured by the simulator alone.

Nothing of this is released. A rank in a site's own gallery depends on everybody who is in it: one record more may push
all the others down by one, so that the noise that would hide one subject would hide the figure too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common.data.batch import Batch, hide, parts_of
from common.models.outputs import Outputs, Paired
from common.models.transformer import TransformerModel
from common.objectives import Anchor, InBatch, Part, read_modalities, told

_DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class Ranks:
    """By direction (`image>note`), where each record's own partner stands, from 1 [query], and among how many."""

    places: dict[str, np.ndarray]
    galleries: dict[str, list[int]]

    @property
    def figures(self) -> dict[str, float]:
        """Share of queries whose partner is among the first 1, 5 and 10, the median rank, and the galleries' mean size.

        A gallery of g records gives k / g by chance.
        """
        found: dict[str, float] = {}
        for name, places in self.places.items():
            if len(places):
                found |= {f"recall@{depth}/{name}": float(np.mean(places <= depth)) for depth in _DEPTHS}
                found[f"median_rank/{name}"] = float(np.median(places))
                found[f"gallery/{name}"] = float(np.mean(self.galleries[name]))
        return found


def ranks_of(model: nn.Module, batch: Batch, parts: tuple[Part, ...], *, rows: int) -> Ranks:
    """Rank a site's records, in every direction that a part of the objective has learnt; `rows` of them at a time.

    What a part compares itself is ranked by what it compares; captions bring all modalities together that are read.
    """
    if not len(batch):
        return Ranks({}, {})
    places = _through_words(model, batch, parts, rows) if told(parts) else {}
    if any(isinstance(part, Anchor | InBatch) for part in parts):
        places |= _brought_together(model, batch, parts, rows)
    return Ranks(places, {name: [len(found)] for name, found in places.items() if len(found)})


def _brought_together(model: nn.Module, batch: Batch, parts: tuple[Part, ...], rows: int) -> dict[str, np.ndarray]:
    """In every direction that a part compares."""
    places: dict[str, np.ndarray] = {}
    model.train()  # only then does a model say what its parts look at; no layer of ours answers otherwise
    with torch.no_grad():
        said: list[Outputs] = [model(some) for some in parts_of(batch, rows)]
    model.eval()
    for number, part in enumerate(parts):
        heard = [outputs.parts[number] for outputs in said]
        if isinstance(part, Anchor | InBatch) and isinstance(heard[0], tuple):
            for place, (one, other) in enumerate(part.pairs):
                pair = _joined([some[place] for some in heard if isinstance(some, tuple)])
                places[f"{one}>{other}"], places[f"{other}>{one}"] = _places(pair)
    return places


def _through_words(model: nn.Module, batch: Batch, parts: tuple[Part, ...], rows: int) -> dict[str, np.ndarray]:
    """Between any two modalities: what the model makes of either alone, from which it tells the same text."""
    reader = cast("TransformerModel", model.eval())
    names = read_modalities(parts, batch.values)
    with torch.no_grad():
        seen = {name: [reader.see(part).fused for part in parts_of(hide(batch, (name,)), rows)] for name in names}
    alone = {name: functional.normalize(torch.cat(some)[: len(batch)], dim=1) for name, some in seen.items()}
    places: dict[str, np.ndarray] = {}
    for one, other in combinations(names, 2):
        both = batch.mask[one].any(dim=1) & batch.mask[other].any(dim=1)
        places[f"{one}>{other}"], places[f"{other}>{one}"] = _places(Paired(alone[one], alone[other], both))
    return places


def _joined(pairs: list[Paired]) -> Paired:
    """The sides of all parts; rows that only fill the last one have neither."""
    return Paired(*(torch.cat([getattr(pair, side) for pair in pairs]) for side in ("query", "target", "both")))


def together(each: Iterable[Ranks]) -> Ranks:
    """All sites' queries, each in its own site's gallery."""
    places: dict[str, list[np.ndarray]] = {}
    galleries: dict[str, list[int]] = {}
    for ranks in each:
        for name, found in ranks.places.items():
            places.setdefault(name, []).append(found)
            galleries.setdefault(name, []).extend(ranks.galleries.get(name, []))
    return Ranks({name: np.concatenate(found) for name, found in places.items()}, galleries)


def _places(pair: Paired) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each row's partner from either side; who is as near as the partner counts as half before it."""
    likeness = (pair.query[pair.both] @ pair.target[pair.both].T).double().numpy()
    found = []
    for side in (likeness, likeness.T):
        own = np.diag(side)[:, None]
        found.append(1 + (side > own).sum(axis=1) + ((side == own).sum(axis=1) - 1) / 2)
    return found[0], found[1]
