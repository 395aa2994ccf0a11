"""The exact discrete Gaussian sampler, in integers only: no rounding, no floating point, nothing to attack there.

Many values are drawn side by side, in 64-bit integers that provably do not overflow. Source: Karney 2016,
arXiv:1303.6257, algorithm D (the discrete normal), with the exponentials of Canonne, Kamath, Steinke 2020,
arXiv:2004.00010v5, algorithm 1. Not covered: the time that a draw takes depends on its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

POOL_BYTES = 1 << 16
LARGEST_STD = 2.0**28
_LARGEST_ABOVE, _LARGEST_BELOW = 1 << 24, 1 << 30
_WORD_BYTES = 8
_SURPLUS = 64

Integers = NDArray[np.int64]
Yes = NDArray[np.bool_]


@dataclass
class Bits:
    """Uniform integers from a stream of random bytes, which is read in order and never twice.

    Attributes:
        read: gives block number i of the stream, `POOL_BYTES` bytes.
    """

    read: Callable[[int], bytes]
    _pool: bytes = field(default=b"", init=False)
    _position: int = field(default=0, init=False)
    _blocks: int = field(default=0, init=False)

    def below(self, limits: Integers) -> Integers:
        """Draw, for each limit, an integer from 0 to limit - 1, each exactly equally likely (by rejection)."""
        wide = limits.astype(np.uint64)
        surplus = (np.uint64(0) - wide) % wide  # 2^64 modulo limit: that many words are too many
        drawn = self._words(wide.size)
        rejected = np.flatnonzero(drawn < surplus)
        while rejected.size:
            drawn[rejected] = self._words(rejected.size)
            rejected = rejected[drawn[rejected] < surplus[rejected]]
        return (drawn % wide).astype(np.int64)

    def _words(self, count: int) -> NDArray[np.uint64]:
        missing = self._position + _WORD_BYTES * count - len(self._pool)
        if missing > 0:
            more = range(self._blocks, self._blocks + -(-missing // POOL_BYTES))
            self._pool = b"".join([self._pool[self._position :], *map(self.read, more)])
            self._position, self._blocks = 0, more.stop
        words = np.frombuffer(self._pool, dtype="<u8", count=count, offset=self._position)
        self._position += _WORD_BYTES * count
        return words.astype(np.uint64)


def sample_discrete_gaussian(bits: Bits, *, std: float, size: int) -> Integers:
    """Draw int64 [size] from the discrete Gaussian on the integers with parameter `std`.

    Guarantees:
        exact: P(y) is proportional to exp(-y^2 / (2 s^2)), where s is `std` rounded up to a nearby rational: never
            less noise than asked for, and where std is at least 2^-6 no more than 1 + 2^-23 times as much.

    Raises:
        ValueError: std is not above 0 or above 2^28, or size is negative.
    """
    if not 0 < std <= LARGEST_STD:
        raise ValueError(f"std of the discrete Gaussian must be > 0 and at most 2^28, got {std}")
    if size < 0:
        raise ValueError(f"size must be >= 0, got {size}")
    found = np.zeros(0, dtype=np.int64)
    while found.size < size:
        # More than half of all proposals are rejected; values are independent, so any of those accepted will do.
        found = np.concatenate([found, _accepted(bits, _ratio(std), 2 * (size - found.size) + _SURPLUS)])
    return found[:size]


def _ratio(std: float) -> tuple[int, int]:
    """Round std up to above / below: below is a power of two up to 2^30; above is at most 2^24, or 2^28 over 1."""
    exact, below = Fraction(std), 1
    while below < _LARGEST_BELOW and math.ceil(exact * 2 * below) <= _LARGEST_ABOVE:
        below *= 2
    return math.ceil(exact * below), below


def _accepted(bits: Bits, ratio: tuple[int, int], count: int) -> Integers:
    """Make `count` proposals for std = above / below, and keep those that the algorithm accepts.

    Every integer is sign * m, and every m >= 0 lies in exactly one strip [k s, (k+1) s): with m = (k + x) s, a proposal
    exp(-k/2) * exp(-k(k-1)/2) * exp(-x(2k+x)/2) = exp(-(k+x)^2 / 2) is what is wanted.
    """
    above, below = ratio
    strip = _geometric(bits, count)
    strip = strip[_bernoulli_exp(bits, strip * (strip - 1), np.full(strip.size, 2))]
    # From here on a strip of 20 or more has a chance below 2^-270; up to 31, nothing below overflows.
    first = -(-strip * above // below)
    magnitude = first + bits.below(np.full(strip.size, -(-above // below)))
    gap = magnitude * below - strip * above  # x in units of 1 / above
    negative = bits.below(np.full(strip.size, 2)) == 1
    kept = np.flatnonzero((gap < above) & ~(negative & (magnitude == 0)))
    strip, magnitude, gap, negative = strip[kept], magnitude[kept], gap[kept], negative[kept]
    taken = _bernoulli_exp(bits, gap * (gap + 2 * strip * above), np.full(kept.size, 2 * above * above))
    return np.where(negative, -magnitude, magnitude)[taken]


def _geometric(bits: Bits, count: int) -> Integers:
    """Count successes before the first failure of trials with chance exp(-1/2)."""
    found, running = np.zeros(count, dtype=np.int64), np.arange(count)
    while running.size:
        ones = np.ones(running.size, dtype=np.int64)
        running = running[_bernoulli_exp_unit(bits, ones, 2 * ones)]
        found[running] += 1
    return found


def _bernoulli_exp(bits: Bits, numerators: Integers, denominators: Integers) -> Yes:
    """True with chance exp(-numerator / denominator) each: as many trials with chance 1/e as the ratio has wholes."""
    alive = np.arange(numerators.size)
    wholes, rest = numerators // denominators, numerators % denominators
    while (trying := wholes[alive] > 0).any():
        ones = np.ones(int(trying.sum()), dtype=np.int64)
        wholes[alive[trying]] -= 1
        trying[trying] = ~_bernoulli_exp_unit(bits, ones, ones)
        alive = alive[~trying]
    yes = np.zeros(numerators.size, dtype=np.bool_)
    yes[alive] = _bernoulli_exp_unit(bits, rest[alive], denominators[alive])
    return yes


def _bernoulli_exp_unit(bits: Bits, numerators: Integers, denominators: Integers) -> Yes:
    """The same for ratios in [0, 1]: the first failure of trials with chance ratio/1, ratio/2, ... has an odd number.

    Trial 32 is reached with a chance below 1/31! < 2^-112, so that index * denominator stays below 2^5 * 2^57.
    """
    last, running, index = np.zeros(numerators.size, dtype=np.int64), np.arange(numerators.size), 1
    while running.size:
        success = bits.below(index * denominators[running]) < numerators[running]
        last[running[~success]] = index
        running, index = running[success], index + 1
    return np.asarray(last % 2 == 1)
