"""AES-256 in counter mode as a stream of pseudo-random bytes: the one source of masks and of privacy noise."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

KEY_BYTES = 32
NONCE_BYTES = 16
CHUNK_BYTES = 1 << 17  # a chunk of keystream and the part of the vector that it is added to stay in the cache

_ZEROS = bytes(CHUNK_BYTES)


def keystream(key: bytes, nonce: bytes, num_bytes: int) -> bytearray:
    """Give the first `num_bytes` bytes of the AES-256-CTR keystream of (key, nonce).

    Guarantees:
        pure: the same key and nonce always give the same bytes, and a shorter stream is the start of a longer one.

    Raises:
        ValueError: the key is not 32 bytes, the nonce is not 16, or num_bytes is negative.
    Source: NIST SP 800-38A, section 6.5; `nonce` is the initial counter block.
    """
    if num_bytes < 0:
        raise ValueError(f"num_bytes must be >= 0, got {num_bytes}")
    stream = open_stream(key, nonce)
    output = bytearray(num_bytes)
    view = memoryview(output)
    for start in range(0, num_bytes, CHUNK_BYTES):
        part = view[start : start + CHUNK_BYTES]
        stream.update_into(memoryview(_ZEROS)[: len(part)], part)
    return output


def open_stream(key: bytes, nonce: bytes = bytes(NONCE_BYTES)) -> CipherContext:
    """Open a keystream that is read on with `fill`.

    Raises:
        ValueError: the key is not 32 bytes or the nonce is not 16.
    """
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError(f"key and nonce must be {KEY_BYTES} and {NONCE_BYTES} bytes, got {len(key)} and {len(nonce)}")
    return Cipher(AES256(key), CTR(nonce)).encryptor()


def fill(stream: CipherContext, words: np.ndarray) -> None:
    """Overwrite a contiguous uint32 array of at most CHUNK_BYTES with the next words (little-endian) of a stream."""
    target = words.view(np.uint8).data
    stream.update_into(memoryview(_ZEROS)[: len(target)], target)
