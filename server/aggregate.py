"""From sums to one update per block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.config import ObjectiveConfig
from server.state import Arrays


@dataclass(frozen=True)
class BlockSum:
    """A securely summed block: sum of weighted updates or gradients [parameter], sum of weights, who is in it."""

    total: np.ndarray
    weight: float
    sites: tuple[str, ...]


def mean_by_block(sums: Mapping[str, BlockSum]) -> Arrays:
    """Divide each block's sum by the weight of the sites that hold it (never by those that do not)."""
    return {name: block.total / block.weight for name, block in sums.items() if block.weight > 0}


def step_along(gradients: Arrays, weights: Arrays, objective: ObjectiveConfig) -> Arrays:
    """Give the update of one descent step along mean gradients: what a site that took the step itself would send."""
    return {
        name: -objective.learning_rate * (gradient + objective.weight_decay * weights[name])
        for name, gradient in gradients.items()
    }


def median_by_block(updates: Mapping[str, Sequence[np.ndarray]]) -> Arrays:
    """Take each coordinate's median over the sites that hold the block; needs single updates."""
    return {name: np.median(np.stack(vectors), axis=0) for name, vectors in updates.items()}
