"""Score bins: of equal width in log-odds over [-4, 4], the outer two open, so that confident models keep their order.

Bins of equal width in probability put almost all scores of a confident model into the first and the last one, where
their order is lost: a released AUROC was once 4 points too low for that.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_REACH = 4.0
_SMALLEST = 1e-12


def bin_of(scores: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """The bin of each score in [0, 1]."""
    bounded = np.clip(scores, _SMALLEST, 1.0 - _SMALLEST)
    place = np.floor((np.log(bounded / (1.0 - bounded)) + _REACH) * bins / (2 * _REACH) + _SMALLEST)
    return np.clip(place, 0, bins - 1).astype(np.int64)


def edge_of(threshold: float, bins: int) -> int:
    """The bin that starts at the threshold, or at the nearest edge between two bins."""
    place = (math.log(threshold / (1.0 - threshold)) + _REACH) * bins / (2 * _REACH)
    return min(max(round(place), 1), bins - 1)


def score_at(edge: float, bins: int) -> float:
    """The score where a bin starts; half a bin further is its middle."""
    return 1.0 / (1.0 + math.exp(_REACH - 2 * _REACH * edge / bins))


def middles(bins: int) -> NDArray[np.float64]:
    """The middle of each bin, as a score: float64 [bin]."""
    return np.array([score_at(place + 0.5, bins) for place in range(bins)])
