"""The exact discrete Gaussian sampler, in integers only: no rounding, no floating point, nothing to attack there.

Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010v5, algorithms 1 to 3. Not covered: the time that a draw takes
depends on its value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

POOL_BYTES = 1 << 16


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

    def below(self, limit: int) -> int:
        """Draw an integer from 0 to limit - 1, each exactly equally likely (by rejection)."""
        num_bits = (limit - 1).bit_length()
        num_bytes = (num_bits + 7) // 8
        surplus = 8 * num_bytes - num_bits
        while True:
            drawn = int.from_bytes(self._take(num_bytes), "little") >> surplus
            if drawn < limit:
                return drawn

    def _take(self, count: int) -> bytes:
        start = self._position
        if start + count > len(self._pool):
            self._pool = self._pool[start:] + self.read(self._blocks)
            self._blocks += 1
            start = 0
        self._position = start + count
        return self._pool[start : self._position]


def sample_discrete_gaussian(bits: Bits, *, std: float, size: int) -> np.ndarray:
    """Draw int64 [size] from the discrete Gaussian on the integers with parameter `std`.

    Guarantees:
        exact: P(y) is proportional to exp(-y^2 / (2 std^2)), with std the exact rational value of the float.

    Raises:
        ValueError: std is not above 0 or not finite, or size is negative.
    """
    if not 0 < std < float("inf"):
        raise ValueError(f"std of the discrete Gaussian must be > 0 and finite, got {std}")
    if size < 0:
        raise ValueError(f"size must be >= 0, got {size}")
    variance = Fraction(std) ** 2
    scale = int(std) + 1  # of the discrete Laplace proposal
    return np.fromiter((_one(bits, variance, scale) for _ in range(size)), dtype=np.int64, count=size)


def _one(bits: Bits, variance: Fraction, scale: int) -> int:
    """Algorithm 3: propose from the discrete Laplace, accept with chance exp(-(|y| - variance/scale)^2/2variance)."""
    above, below = variance.numerator, variance.denominator
    divisor = 2 * above * below * scale * scale
    while True:
        proposal = _discrete_laplace(bits, scale)
        distance = abs(proposal) * scale * below - above
        if _bernoulli_exp(bits, distance * distance, divisor):
            return proposal


def _discrete_laplace(bits: Bits, scale: int) -> int:
    """Algorithm 2 with s = 1, t = scale: P(y) is proportional to exp(-|y| / scale)."""
    while True:
        remainder = bits.below(scale)
        if not _bernoulli_exp_unit(bits, remainder, scale):
            continue
        quotient = 0
        while _bernoulli_exp_unit(bits, 1, 1):
            quotient += 1
        magnitude = remainder + scale * quotient
        negative = bits.below(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def _bernoulli_exp(bits: Bits, numerator: int, denominator: int) -> bool:
    """Algorithm 1: true with probability exp(-numerator / denominator)."""
    while numerator > denominator:
        if not _bernoulli_exp_unit(bits, 1, 1):
            return False
        numerator -= denominator
    return _bernoulli_exp_unit(bits, numerator, denominator)


def _bernoulli_exp_unit(bits: Bits, numerator: int, denominator: int) -> bool:
    """Algorithm 1 for a ratio in [0, 1]."""
    index = 1
    while bits.below(denominator * index) < numerator:  # Bernoulli(ratio / index)
        index += 1
    return index % 2 == 1
