"""AES-256 in counter mode as a stream of pseudo-random bytes: the one source of masks and of privacy noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

KEY_BYTES = 32
NONCE_BYTES = 16
CHUNK_BYTES = 1 << 17  # a chunk of keystream and the part of the vector that it is added to stay in the cache

_ZEROS = bytes(CHUNK_BYTES)
_BLOCK_BYTES = 16
_HEAD_BYTES = 2 * _BLOCK_BYTES  # the counters 0 and 1, which GCM keeps for itself
_GCM_NONCE_BYTES = 12
_TRIALS = 5


@dataclass
class Stream:
    """The keystream of a key from counter 0 on, which is read in order and never twice."""

    head: memoryview = field(repr=False)
    rest: CipherContext = field(repr=False)

    def fill(self, words: np.ndarray) -> None:
        """Overwrite a contiguous array with the next bytes.

        Raises:
            ValueError: the array is larger than CHUNK_BYTES.
        """
        target = words.view(np.uint8).data
        if len(target) > CHUNK_BYTES:
            raise ValueError(f"words must be at most {CHUNK_BYTES} bytes, got {len(target)}")
        head, self.head = self.head[: len(target)], self.head[len(target) :]
        target[: len(head)] = head
        self.rest.update_into(memoryview(_ZEROS)[: len(target) - len(head)], target[len(head) :])


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
    _check_sizes(key, nonce)
    output = bytearray(num_bytes)
    words = np.frombuffer(output, np.uint8)
    stream = open_stream(key) if nonce == bytes(NONCE_BYTES) else Stream(memoryview(b""), _by_counter(key, nonce))
    for start in range(0, num_bytes, CHUNK_BYTES):
        stream.fill(words[start : start + CHUNK_BYTES])
    return output


def open_stream(key: bytes) -> Stream:
    """Open the keystream of a key from counter 0 on.

    Guarantees:
        same: it is that of `keystream(key, bytes(16), ...)`, whichever way this processor computes it.

    Raises:
        ValueError: the key is not 32 bytes.
    """
    _check_sizes(key, bytes(NONCE_BYTES))
    head = _by_counter(key, bytes(NONCE_BYTES)).update(_ZEROS[:_HEAD_BYTES])
    return Stream(memoryview(head), _fastest()(key))


def from_counter_two_by_ctr(key: bytes) -> CipherContext:
    """Open the keystream behind the head, as SP 800-38A writes it."""
    return _by_counter(key, (_HEAD_BYTES // _BLOCK_BYTES).to_bytes(NONCE_BYTES, "big"))


def from_counter_two_by_gcm(key: bytes) -> CipherContext:
    """Open the same keystream through GCM, whose text begins at the counter (96-bit nonce, 2); no tag is asked for.

    OpenSSL gives GCM, not CTR, the widest AES instructions of a processor. It refuses to go on before the counter's 32
    bits wrap, after 64 GiB.
    Source: NIST SP 800-38D, sections 7.1 (J0 = nonce, 1; the text begins at inc(J0)) and 5.2.1.1.
    """
    return Cipher(AES256(key), GCM(bytes(_GCM_NONCE_BYTES))).encryptor()


@cache
def _fastest() -> Callable[[bytes], CipherContext]:
    """Try both ways on this processor, once a process; the bytes are the same, so nothing but time depends on it."""
    target = bytearray(CHUNK_BYTES)

    def seconds(way: Callable[[bytes], CipherContext]) -> float:
        context = way(bytes(KEY_BYTES))
        started = time.perf_counter()
        context.update_into(_ZEROS, target)
        return time.perf_counter() - started

    trials = [(seconds(way), way) for _ in range(_TRIALS) for way in (from_counter_two_by_ctr, from_counter_two_by_gcm)]
    return min(trials, key=lambda trial: trial[0])[1]


def _by_counter(key: bytes, nonce: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(nonce)).encryptor()


def _check_sizes(key: bytes, nonce: bytes) -> None:
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError(f"key and nonce must be {KEY_BYTES} and {NONCE_BYTES} bytes, got {len(key)} and {len(nonce)}")
