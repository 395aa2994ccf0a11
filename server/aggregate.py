"""From sums to one update per block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from server.state import Arrays


@dataclass(frozen=True)
class BlockSum:
    """A securely summed block: sum of weighted updates [parameter], sum of weights, and who is in it."""

    total: np.ndarray
    weight: float
    sites: tuple[str, ...]


def mean_by_block(sums: Mapping[str, BlockSum]) -> Arrays:
    """Divide each block's sum by the weight of the sites that hold it (never by those that do not)."""
    return {name: block.total / block.weight for name, block in sums.items() if block.weight > 0}


def median_by_block(updates: Mapping[str, Sequence[np.ndarray]]) -> Arrays:
    """Take each coordinate's median over the sites that hold the block; needs single updates."""
    return {name: np.median(np.stack(vectors), axis=0) for name, vectors in updates.items()}
