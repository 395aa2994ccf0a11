"""Masks: AES-256-CTR streams added to vectors modulo 2^32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.secagg.keys import derive
from common.secagg.keystream import CHUNK_BYTES, open_stream

WORD_BYTES = 4


def self_key(seed: bytes, transcript: bytes, site: str, block: str) -> bytes:
    """Derive the key of a site's own mask on one block from the block's seed."""
    return derive(seed, b"self mask", transcript, block.encode(), site.encode())


def pair_key(agreed: bytes, transcript: bytes, pair: tuple[str, str], block: str) -> bytes:
    """Derive the key of the mask that two sites share on one block; the order of the pair does not matter."""
    low, high = sorted(pair)
    return derive(agreed, b"pair mask", transcript, block.encode(), low.encode(), high.encode())


def adds(site: str, peer: str) -> bool:
    """Tell whether `site` adds the mask that it shares with `peer` (the other one subtracts it)."""
    return site < peer


def apply_masks(vector: np.ndarray, *, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add and subtract the streams of these keys, in place, modulo 2^32.

    Memory: one chunk, whatever the vector's length and the number of keys.

    Guarantees:
        invertible: the same keys with plus and minus exchanged restore the vector.

    Raises:
        ValueError: the vector is not one-dimensional uint32.
    """
    if vector.dtype != np.uint32 or vector.ndim != 1:
        raise ValueError(f"vector must be one-dimensional uint32, got {vector.dtype} of shape {vector.shape}")
    added = [open_stream(key) for key in plus]
    subtracted = [open_stream(key) for key in minus]
    buffer = np.empty(min(vector.size, CHUNK_BYTES // WORD_BYTES), dtype="<u4")
    for start in range(0, vector.size, max(buffer.size, 1)):
        part = vector[start : start + buffer.size]
        words = buffer[: part.size]
        for stream in added:
            stream.fill(words)
            np.add(part, words, out=part)
        for stream in subtracted:
            stream.fill(words)
            np.subtract(part, words, out=part)
