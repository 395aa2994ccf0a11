"""Reals and counts as integers modulo 2^32 whose sum over all sites cannot wrap."""

from __future__ import annotations

import numpy as np

RING_BITS = 32
_MIN_BITS = 8
_ROUNDING_SLACK = 1e-6  # a bound that went through float32 may be off by this much, relatively


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


def encode_floats(values: np.ndarray, *, bound: float, bits: int, uniforms: np.ndarray) -> np.ndarray:
    """Round reals within [-bound, bound] to signed fixed point, up or down at random, as uint32.

    The step is bound / (2^(bits-1) - 1), so that both ends are on the grid and none of them is cut off.
    `uniforms` holds one draw in [0, 1) for each value.

    Guarantees:
        unbiased: the expected decoded value is the value, up to float64 rounding.
        close: the decoded value is less than one step away.

    Raises:
        ValueError: a value is not finite or beyond the bound, or shapes differ. Nothing is said about which value.
    """
    if not (np.isfinite(bound) and bound > 0):
        raise ValueError(f"bound must be finite and > 0, got {bound}")
    check_capacity(1, bits)
    if values.shape != uniforms.shape:
        raise ValueError(f"uniforms must have the shape of values {values.shape}, got {uniforms.shape}")
    reals = values.astype(np.float64)
    if not np.isfinite(reals).all():
        raise ValueError("values must be finite")
    if reals.size and np.abs(reals).max() > bound * (1.0 + _ROUNDING_SLACK):
        raise ValueError(f"values must be within the bound {bound}")
    largest = _largest(bits)
    scaled = np.clip(reals * (largest / bound), -largest, largest)
    floor = np.floor(scaled)
    # The fraction is compared, not added: floor(scaled + uniform) rounds the sum first, and is biased for that.
    return (floor.astype(np.int64) + (uniforms < scaled - floor)).astype(np.uint32)


def decode_sum(total: np.ndarray, *, bound: float, bits: int, num_sites: int) -> np.ndarray:
    """Read the sum of `num_sites` encoded vectors back as float64.

    Raises:
        ValueError: such a sum could have wrapped.
    """
    check_capacity(num_sites, bits)
    return _signed(total).astype(np.float64) * (bound / _largest(bits))


def encode_counts(counts: np.ndarray, *, num_sites: int) -> np.ndarray:
    """Write signed integers as uint32 in two's complement, where the sum over `num_sites` sites cannot wrap.

    Raises:
        ValueError: the counts are no integers, or one of them is so large that a sum could wrap.
    """
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"counts must be integers, got {counts.dtype}")
    largest = (2 ** (RING_BITS - 1) - 1) // num_sites
    if counts.size and (int(counts.max()) > largest or int(counts.min()) < -largest):
        raise ValueError(f"counts of {num_sites} sites must be within -{largest} and {largest}")
    return counts.astype(np.int64).astype(np.uint32)


def decode_counts(total: np.ndarray) -> np.ndarray:
    """Read a sum of counts back as int64."""
    return _signed(total).astype(np.int64)


def _largest(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)


def _signed(total: np.ndarray) -> np.ndarray:
    if total.dtype != np.uint32:
        raise ValueError(f"total must be uint32, got {total.dtype}")
    return np.ascontiguousarray(total).view(np.int32)
