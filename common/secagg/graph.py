"""The neighbour graph of a large sum: how many neighbours each site must choose, and what is left to chance.

Every site chooses its own neighbours by its own coins, and deals shares of its secrets to these alone. docs/scale.md
shows why three events are all that can go wrong; this file computes their probabilities, exactly or from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from common.secagg.roster import COLLUDERS

MOST_NEIGHBOURS = 1000  # of whatever roster; 200 are enough for 100,000 sites
_LN2 = math.log(2.0)
_SLACK_BITS = 1e-6  # two machines may round a logarithm differently


@dataclass(frozen=True)
class Promise:
    """Against what a graph must hold, and how surely.

    `colluders` is the share of the roster's sites that may work with the server, `drop_outs` the share of those that
    take part and may then fall silent at random. The bits are minus the logarithms, base 2, of the probabilities.
    """

    colluders: Fraction = COLLUDERS
    drop_outs: Fraction = Fraction(1, 10)
    privacy_bits: float = 40.0
    availability_bits: float = 20.0

    def num_colluders(self, roster_size: int) -> int:
        """Count the sites of a roster that may collude."""
        return math.floor(self.colluders * roster_size)


STANDARD = Promise()


@dataclass(frozen=True)
class Shape:
    """A graph's public numbers: each of `num_sites` chooses `degree` others; `threshold` of these open its secrets."""

    num_sites: int
    degree: int
    threshold: int


@dataclass(frozen=True)
class Bound:
    """Logarithms, base 2, of bounds on the probabilities of what must not happen.

    secrets: some honest site chose so many colluders that both its secrets might be rebuilt.
    split: some half or less of the honest sites might be cut off from the others, and summed alone.
    silence: so many of a site's choices fall silent at random that one of its secrets is lost, and the round with it.
    """

    secrets: float
    split: float
    silence: float

    @property
    def privacy(self) -> float:
        """The first two together: all that a promise to a site rests on."""
        return float(np.logaddexp2(self.secrets, self.split))


def choose_shape(num_sites: int, roster_size: int, promise: Promise = STANDARD) -> Shape:
    """Find the smallest degree, with its largest threshold, that keeps a promise.

    Raises:
        ValueError: no degree does.
    """
    return _choose_shape(num_sites, promise.num_colluders(roster_size), promise)


def bound_of(shape: Shape, num_colluders: int, num_drop_outs: int) -> Bound:
    """Bound what may go wrong with a graph whose colluders were fixed before any site chose.

    Guarantees:
        above: each event's probability is at most 2 to the power of its figure.
    Source: hypergeometric tails and union bounds; docs/scale.md has the argument. The model, in which each site
        chooses its own neighbours, is that of Bell, Bonawitz, Gascon, Lepoint, Raykova 2020 (eprint 2020/704).
    """
    sites, degree, threshold = shape.num_sites, shape.degree, shape.threshold
    honest = sites - num_colluders
    others = sites - 1
    secrets = _bits(math.log(honest), _log_tail(others, np.array([num_colluders]), degree, 2 * threshold - degree))
    lost = degree - threshold + 1
    silence = _bits(math.log(sites), _log_tail(others, np.array([num_drop_outs]), degree, lost))
    sizes = np.arange(1, honest // 2 + 1)
    # A cut-off set of `size`: each of its members chose at least `threshold` within the set and the colluders.
    inside = _log_tail(others, sizes - 1 + num_colluders, degree, threshold)
    split = _bits(0.0, _log_choose(honest, sizes) + sizes * inside)
    return Bound(secrets, split, silence)


def keeps(shape: Shape, roster_size: int, promise: Promise = STANDARD) -> bool:
    """Tell whether a graph that somebody else proposes is private enough; whether it is robust is their own affair."""
    if not 1 <= shape.threshold <= shape.degree < shape.num_sites or shape.degree > MOST_NEIGHBOURS:
        return False
    return _keeps(shape, promise.num_colluders(roster_size), promise)


@lru_cache(maxsize=256)
def _keeps(shape: Shape, num_colluders: int, promise: Promise) -> bool:
    if num_colluders >= shape.num_sites or not _may_keep(shape, num_colluders, promise):
        return False
    return bound_of(shape, num_colluders, 0).privacy <= -promise.privacy_bits + _SLACK_BITS


@lru_cache(maxsize=256)
def _choose_shape(num_sites: int, num_colluders: int, promise: Promise) -> Shape:
    others, num_drop_outs = num_sites - 1, math.floor(promise.drop_outs * num_sites)
    for degree in range(1, num_sites):
        fallen = _log_tails(others, num_drop_outs, degree)  # by how many fell silent, from 0 to degree
        bearable = (fallen + math.log(num_sites)) / _LN2 <= -promise.availability_bits
        lost = int(np.argmax(bearable)) if bearable.any() else degree + 1
        shape = Shape(num_sites, degree, degree + 1 - lost)
        # The cheap event first: the sum over all sizes of sets is computed for few degrees only.
        if (
            2 * shape.threshold > degree
            and _may_keep(shape, num_colluders, promise)
            and _keeps(shape, num_colluders, promise)
        ):
            return shape
    raise ValueError(f"no graph among {num_sites} sites bears {num_colluders} colluders and {num_drop_outs} drop-outs")


def _may_keep(shape: Shape, num_colluders: int, promise: Promise) -> bool:
    if num_colluders >= shape.num_sites:
        return False
    tail = _log_tail(shape.num_sites - 1, np.array([num_colluders]), shape.degree, 2 * shape.threshold - shape.degree)
    return _bits(math.log(shape.num_sites - num_colluders), tail) <= -promise.privacy_bits + _SLACK_BITS


def _log_tail(population: int, marked: np.ndarray, draws: int, least: int) -> np.ndarray:
    """Logarithms of the probabilities that `draws` of a population without replacement hold `least` marked or more.

    `marked` holds one number of marked members for each answer.
    """
    hits = np.arange(max(least, 0), draws + 1)
    return _log_sum(_log_hypergeometric(population, marked[:, np.newaxis], draws, hits[np.newaxis, :]))


def _log_tails(population: int, marked: int, draws: int) -> np.ndarray:
    """The same for one number of marked members and every `least` from 0 to `draws`."""
    terms = _log_hypergeometric(population, np.array(marked), draws, np.arange(draws + 1))
    return np.logaddexp.accumulate(terms[::-1])[::-1]


def _log_hypergeometric(population: int, marked: np.ndarray, draws: int, hits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities that `draws` without replacement hold exactly `hits` marked members."""
    possible = (hits <= marked) & (draws - hits <= population - marked)
    marked, hits, misses = np.broadcast_arrays(marked, hits, draws - hits)
    marked, hits, misses = (np.where(possible, values, 0) for values in (marked, hits, misses))
    ways: np.ndarray = _log_choose(marked, hits) + _log_choose(population - marked, misses)
    logs: np.ndarray = np.where(possible, ways - _log_choose(population, np.array(draws)), -np.inf)
    return logs


def _log_sum(terms: np.ndarray) -> np.ndarray:
    """The logarithm of a sum of exponentials over the last axis, at most 0: these are probabilities."""
    logs: np.ndarray = np.minimum(np.logaddexp.reduce(terms, axis=-1), 0.0)
    return logs


def _bits(log_factor: float, terms: np.ndarray) -> float:
    """The logarithm, base 2, of a factor times a sum; not capped, so that a search sees how far off it is."""
    return float((log_factor + np.logaddexp.reduce(terms)) / _LN2)


def _log_choose(total: int | np.ndarray, chosen: np.ndarray) -> np.ndarray:
    table = _log_factorials(int(np.max(total)).bit_length())
    ways: np.ndarray = table[total] - table[chosen] - table[total - chosen]
    return ways


@lru_cache(maxsize=32)
def _log_factorials(num_bits: int) -> np.ndarray:
    """Logarithms of 0!, 1!, and so on, up to 2^num_bits - 1."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 2**num_bits, dtype=np.float64)))])
