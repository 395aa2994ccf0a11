"""Score bins: in log-odds around a public base rate, the narrower the nearer to it, the outer two open.

Bins of equal width in probability put almost all scores of a confident model into the first and the last one, where
their order is lost; bins of equal width in log-odds put almost all scores of a timid one, or of a rare outcome, into
one. So widths grow with the distance: with 10 bins the edges lie 0, 0.2, 0.6, 1.6 and 4.1 to either side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_REACH, _BEND = 10.0, 4.5
_SMALLEST = 1e-12


@dataclass(frozen=True)
class ScoreBins:
    """So many bins of scores in [0, 1].

    Attributes:
        base_rate: the public share of those who have the condition, as far as it was known before any record was read.
    """

    number: int
    base_rate: float = 0.5

    def of(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """The bin of each score."""
        bounded = np.clip(scores, _SMALLEST, 1.0 - _SMALLEST)
        away = np.log(bounded / (1.0 - bounded)) - _log_odds(self.base_rate)
        place = np.floor(self._place(away) + _SMALLEST)
        return np.clip(place, 0, self.number - 1).astype(np.int64)

    def edge_of(self, threshold: float) -> int:
        """The bin that starts at the threshold, or at the nearest edge between two bins."""
        place = float(self._place(np.array(_log_odds(threshold) - _log_odds(self.base_rate))))
        return min(max(round(place), 1), self.number - 1)

    def score_at(self, edge: float) -> float:
        """The score where a bin starts; half a bin further is its middle."""
        away = _REACH * math.sinh(_BEND * (2.0 * edge / self.number - 1.0)) / math.sinh(_BEND)
        return 1.0 / (1.0 + math.exp(-away - _log_odds(self.base_rate)))

    def middles(self) -> NDArray[np.float64]:
        """The middle of each bin, as a score: float64 [bin]."""
        return np.array([self.score_at(place + 0.5) for place in range(self.number)])

    def _place(self, away: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where log-odds that are so far from the base rate's lie, counted in bins."""
        bent = np.arcsinh(away * math.sinh(_BEND) / _REACH) / _BEND
        return np.asarray((bent + 1.0) * self.number / 2.0)


def _log_odds(chance: float) -> float:
    return math.log(chance / (1.0 - chance))
