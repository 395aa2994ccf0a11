"""Shamir's secret sharing over the largest prime below 2^256."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

PRIME = 2**256 - 189
SECRET_BYTES = 32


def draw_secret() -> bytes:
    """Draw a uniform secret that fits the field, from the operating system."""
    return secrets.randbelow(PRIME).to_bytes(SECRET_BYTES, "big")


def share_secret(secret: bytes, *, threshold: int, num_shares: int) -> tuple[bytes, ...]:
    """Share a secret: share number x (counted from 1) is the value of a random polynomial at x.

    Guarantees:
        hiding: any threshold - 1 shares are uniform and independent of the secret.

    Raises:
        ValueError: the secret does not fit the field, or the threshold is not within 1 and num_shares.
    Source: Shamir 1979, How to share a secret.
    """
    constant = int.from_bytes(secret, "big")
    if len(secret) != SECRET_BYTES or constant >= PRIME:
        raise ValueError(f"secret must be {SECRET_BYTES} bytes and below 2^256 - 189")
    if not 1 <= threshold <= num_shares:
        raise ValueError(f"threshold must be within 1 and num_shares, got {threshold} of {num_shares}")
    polynomial = [constant, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return tuple(_evaluate(polynomial, x).to_bytes(SECRET_BYTES, "big") for x in range(1, num_shares + 1))


def weights_at_zero(points: Sequence[int]) -> tuple[int, ...]:
    """Give the Lagrange weights that turn values at `points` into the value at 0; one set serves many secrets.

    Raises:
        ValueError: a point is 0 or appears twice.
    """
    if len(set(points)) != len(points) or any(not 0 < point < PRIME for point in points):
        raise ValueError("points must be different and not 0")
    weights = []
    for own in points:
        numerator, denominator = 1, 1
        for other in points:
            if other != own:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - own) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def combine(shares: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """Rebuild a secret from exactly its threshold of shares, in the order of the weights' points."""
    terms = (int.from_bytes(share, "big") * weight for share, weight in zip(shares, weights, strict=True))
    return (sum(terms) % PRIME).to_bytes(SECRET_BYTES, "big")


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    """By Horner's rule, reduced once at the end: a site's number is small, so the value grows by a few bits a step."""
    value = 0
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value % PRIME
