"""Privacy noise: where its randomness comes from and how it is shaped; lattice.py says how much each site adds.

The noise of a release never comes from the experiment's seed. It is AES-256-CTR keystream under a fresh key from the
operating system; only tests may name a seed. Limits, said openly: Gaussian noise is computed in float64, so it is not
exactly Gaussian. Each value is the scaled sum of four independent Box-Muller draws, the defence of Opacus' secure mode
against attacks on the sampler's floating-point pattern (Holohan and Braghin 2021, arXiv:2107.10138). A draw has two
outputs, which go into two values: as there, four words of keystream stand behind each value, and eight behind any two
that share them. What leaves a site with secure aggregation is rounded to a public grid afterwards. Tables, and training
whose noise is shared out between the sites, get the exact discrete Gaussian.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from common.privacy.discrete_gaussian import POOL_BYTES, Bits, sample_discrete_gaussian
from common.secagg.keystream import CHUNK_BYTES, KEY_BYTES, NONCE_BYTES, Stream, keystream, open_stream

TESTING_VARIABLE = "FEDMOSAIC_TESTING"

_WORD_BITS, _MANTISSA_BITS, _SUMMANDS = 64, 53, 4
_PAIRS = CHUNK_BYTES // (2 * _SUMMANDS * _WORD_BITS // 8)  # a block of values comes of one chunk, which is cached


@dataclass(frozen=True)
class NoiseSource:
    """A keyed family of random streams, one per label.

    Guarantees:
        pure: the same source, method, label and size give the same values; distinct labels or methods are independent.
            So one release must never use a label twice for two draws.
        unshared: a source of kind "os-csprng" works only in the process that made it; a forked or pickled copy refuses.
    """

    kind: Literal["os-csprng", "test"]
    key: bytes = field(repr=False)
    process: int

    def gaussian(self, label: str, size: int) -> np.ndarray:
        """Draw standard normal float64 [size]."""
        values = np.empty(size)
        self.gaussians(label)(values)
        return values

    def gaussians(self, label: str) -> Callable[[np.ndarray], None]:
        """Draw what `gaussian` draws, a piece at a time: each call overwrites a float64 array [any size]."""
        stream, left = open_stream(self._key("gaussian", label)), np.empty(0)

        def draw(target: np.ndarray) -> None:
            nonlocal left
            self._check_process()
            done = 0
            while done < target.size:
                if not left.size:
                    left = _normals(stream)
                part = left[: target.size - done]
                target[done : done + part.size] = part
                left, done = left[part.size :], done + part.size

        return draw

    def uniform(self, label: str, size: int) -> np.ndarray:
        """Draw float64 [size], uniform on the multiples of 2^-53 in [0, 1)."""
        return _unit(self._words("uniform", label, size))

    def uniforms(self, label: str) -> Callable[[np.ndarray], None]:
        """Draw what `uniform` draws, a piece at a time: each call overwrites a float64 array of at most CHUNK_BYTES."""
        stream = open_stream(self._key("uniform", label))

        def draw(target: np.ndarray) -> None:
            self._check_process()
            words = target.view("<u8")
            stream.fill(words)
            words >>= np.uint64(_WORD_BITS - _MANTISSA_BITS)
            target[:] = words.view("<i8")  # below 2^53, and signed integers are the quicker ones to convert
            target *= 2.0**-_MANTISSA_BITS

        return draw

    def discrete_gaussian(self, label: str, sigma: float, size: int) -> np.ndarray:
        """Draw int64 [size] from the exact discrete Gaussian with parameter `sigma`.

        Raises:
            ValueError: sigma is not above 0.
        """
        key = self._key("discrete_gaussian", label)
        return sample_discrete_gaussian(Bits(lambda block: _block(key, block)), std=sigma, size=size)

    def _check_process(self) -> None:
        if self.kind == "os-csprng" and self.process != os.getpid():
            raise ValueError("this noise source was made in another process: forked copies would draw the same noise")

    def _key(self, method: str, label: str) -> bytes:
        self._check_process()
        return hmac.digest(self.key, f"{method}\0{label}".encode(), "sha256")

    def _words(self, method: str, label: str, count: int) -> np.ndarray:
        stream = keystream(self._key(method, label), bytes(NONCE_BYTES), count * _WORD_BITS // 8)
        return np.frombuffer(stream, dtype="<u8")


def os_noise(site: str, run: str, round: int, purpose: str, *, entropy: bytes | None = None) -> NoiseSource:
    """Open fresh noise for one release; every call gets its own key from the operating system.

    `entropy` is 32 bytes that were drawn from it earlier and kept secret, so that the same release, interrupted, is
    computed again with the same noise: a second draw for one charge would average the noise out.

    The names are hashed into the key beside 32 bytes of OS entropy: two releases differ even on a machine whose entropy
    pool was cloned.
    """
    secret = os.urandom(KEY_BYTES) if entropy is None else entropy
    if len(secret) != KEY_BYTES:
        raise ValueError(f"entropy must be {KEY_BYTES} bytes, got {len(secret)}")
    return NoiseSource("os-csprng", hmac.digest(secret, _name(site, run, round, purpose), "sha256"), os.getpid())


def test_noise(seed: int, site: str, round: int, purpose: str) -> NoiseSource:
    """Open repeatable noise, which protects nobody.

    Raises:
        ValueError: FEDMOSAIC_TESTING=1 is not in the environment.
    """
    if os.environ.get(TESTING_VARIABLE) != "1":
        raise ValueError(f"privacy.test_noise_seed is for tests only: it needs {TESTING_VARIABLE}=1 in the environment")
    key = hashlib.sha256(b"fedmosaic test noise" + _name(str(seed), site, round, purpose)).digest()
    return NoiseSource("test", key, os.getpid())


def _normals(stream: Stream) -> np.ndarray:
    """Draw the next block of standard normals: float64 [2 * pair], first the cosines' sums, then the sines'.

    With t the tangent of half an angle, its cosine is (1 - t^2) / (1 + t^2) and its sine 2t / (1 + t^2): one function
    to compute for two values, and one that numpy computes many at a time.
    """
    words = np.empty(2 * _SUMMANDS * _PAIRS, dtype="<u8")
    stream.fill(words)
    words >>= np.uint64(1)  # signed integers are the quicker ones to convert
    unit = words.view("<i8").reshape(2, _SUMMANDS, _PAIRS) * 2.0 ** -(_WORD_BITS - 1)
    radius, tangent = unit
    radius += 2.0**-_WORD_BITS  # the logarithm of 0 would be infinite
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    tangent -= 0.5
    tangent *= np.pi
    np.tan(tangent, out=tangent)
    square = tangent * tangent
    radius /= 1.0 + square
    np.subtract(1.0, square, out=square)
    square *= radius
    tangent *= radius
    tangent *= 2.0
    return np.concatenate([square.sum(axis=0), tangent.sum(axis=0)]) / math.sqrt(_SUMMANDS)


def _unit(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(_WORD_BITS - _MANTISSA_BITS)).astype(np.float64) * 2.0**-_MANTISSA_BITS


def _block(key: bytes, block: int) -> bytes:
    """Block `block` of a stream that is read piece by piece: counters of two blocks never meet."""
    first_counter = block * (POOL_BYTES // NONCE_BYTES)
    return bytes(keystream(key, first_counter.to_bytes(NONCE_BYTES, "big"), POOL_BYTES))


def _name(*parts: str | int) -> bytes:
    return json.dumps(parts).encode()
