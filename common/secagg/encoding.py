"""Reals and counts as integers modulo 2^32 whose sum over all sites cannot wrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.secagg.keystream import CHUNK_BYTES

Draw = Callable[[np.ndarray], object]

RING_BITS = 32
_MIN_BITS = 8
_CHUNK = CHUNK_BYTES // 8  # coordinates: float64 stays in the cache, and uniforms are one chunk of keystream


def bits_for(num_sites: int) -> int:
    """Count the bits that one site may use: 32 - ceil(log2(num_sites)).

    Raises:
        ValueError: num_sites is below 1, or leaves fewer than 8 bits.
    """
    if num_sites < 1:
        raise ValueError(f"num_sites must be >= 1, got {num_sites}")
    bits = RING_BITS - (num_sites - 1).bit_length()
    check_capacity(num_sites, bits)
    return bits


def check_capacity(num_sites: int, bits: int) -> None:
    """Check that the sum of `num_sites` signed integers of `bits` bits cannot wrap modulo 2^32.

    Raises:
        ValueError: it could, or there are fewer than 8 bits.
    """
    if not _MIN_BITS <= bits <= RING_BITS or num_sites * _largest(bits) >= 2 ** (RING_BITS - 1):
        raise ValueError(f"bits must be within {_MIN_BITS} and 32 and leave room for {num_sites} sites, got {bits}")


def encode_weighted(values: np.ndarray, weight: float, *, bound: float, bits: int, draw: Draw) -> np.ndarray:
    """Encode reals times a weight, and the weight behind them, as signed fixed point in uint32 [values + 1].

    What is beyond [-bound, bound] is cut. The step is bound / (2^(bits-1) - 1), so that both ends are on the grid.
    Each coordinate is rounded up or down at random: `draw` overwrites a float64 array with uniforms in [0, 1).
    Memory: the result and three chunks.

    Guarantees:
        unbiased: the expected decoded value is the value, up to float64 rounding.
        close: the decoded value is less than one step away.

    Raises:
        ValueError: a value or the weight is not finite. Nothing is said about which value.
    """
    if not (np.isfinite(bound) and bound > 0):
        raise ValueError(f"bound must be finite and > 0, got {bound}")
    if not np.isfinite(weight):
        raise ValueError("the weight must be finite")
    check_capacity(1, bits)
    scale = _largest(bits) / bound
    limit = min(float(_largest(bits)), bound * scale)
    encoded = np.empty(values.size + 1, dtype=np.uint32)
    buffers = np.empty((3, min(encoded.size, _CHUNK)))
    for start in range(0, encoded.size, _CHUNK):
        target = encoded[start : start + _CHUNK]
        reals, floor, uniforms = buffers[:, : target.size]
        part = values[start : start + _CHUNK]
        reals[: part.size], reals[part.size :] = part, 1.0
        largest = _magnitude(reals) * abs(weight) * scale
        if weight != 1.0:
            reals *= weight
        reals *= scale
        if largest > limit:
            np.clip(reals, -limit, limit, out=reals)
        draw(uniforms)
        np.floor(reals, out=floor)
        reals -= floor
        np.copyto(target.view(np.int32), floor, casting="unsafe")
        # The fraction is compared, not added: floor(real + uniform) rounds the sum first, and is biased for that.
        target += uniforms < reals
    return encoded


def decode_sum(total: np.ndarray, *, bound: float, bits: int, num_sites: int) -> np.ndarray:
    """Read the sum of `num_sites` encoded vectors back as float64.

    Raises:
        ValueError: such a sum could have wrapped.
    """
    check_capacity(num_sites, bits)
    return _signed(total).astype(np.float64) * (bound / _largest(bits))


def encode_counts(counts: np.ndarray) -> np.ndarray:
    """Write integers as uint32, modulo 2^32: their sum over all sites is read right while it is within 31 bits.

    Guarantees:
        never refused for their size: what is encoded carries noise already, perhaps no more than a share of it, and a
            refusal would tell on which side of a limit it lies.

    Raises:
        ValueError: the counts are no integers.
    """
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"counts must be integers, got {counts.dtype}")
    return counts.astype(np.int64).astype(np.uint32)


def decode_counts(total: np.ndarray) -> np.ndarray:
    """Read a sum of counts back as int64."""
    return _signed(total).astype(np.int64)


def _magnitude(values: np.ndarray) -> float:
    """The largest absolute value.

    Raises:
        ValueError: a value is not finite.
    """
    magnitude = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
    if not np.isfinite(magnitude):
        raise ValueError("values must be finite")
    return magnitude


def _largest(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)


def _signed(total: np.ndarray) -> np.ndarray:
    if total.dtype != np.uint32:
        raise ValueError(f"total must be uint32, got {total.dtype}")
    return np.ascontiguousarray(total).view(np.int32)
