"""The stream of masks and the encoding against slow, obvious twins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st

from common.secagg.encoding import Draw, bits_for, decode_sum, encode_weighted
from common.secagg.keystream import (
    CHUNK_BYTES,
    Stream,
    from_counter_two_by_ctr,
    from_counter_two_by_gcm,
    open_stream,
)

KEYS = st.binary(min_size=32, max_size=32)


def drawn(seed: int) -> Draw:
    generator = np.random.default_rng(seed)
    return lambda target: generator.random(out=target)


def encoded_slowly(values: np.ndarray, weight: float, bits: int, uniforms: np.ndarray) -> np.ndarray:
    """The naive twin of encode_weighted at bound 8: whole vectors, and the comparison as it is said in words."""
    largest = 2 ** (bits - 1) - 1
    reals = np.clip(np.append(values.astype(np.float64) * weight, weight), -8.0, 8.0)
    scaled = np.clip(reals * (largest / 8.0), -largest, largest)
    floor = np.floor(scaled)
    return np.asarray(floor.astype(np.int64) + (uniforms < scaled - floor)).astype(np.uint32)


@given(
    values=st.lists(st.floats(-9, 9), min_size=1, max_size=20),
    repeats=st.sampled_from([1, 2, 16 * 1024, 16 * 1024 + 1]),
    weight=st.sampled_from([1.0, 0.3, 9.0]),
    num_sites=st.integers(1, 128),
    seed=st.integers(0, 99),
)
def test_encoding_by_chunks_is_encoding_slowly(
    values: list[float], repeats: int, weight: float, num_sites: int, seed: int
) -> None:
    bits, reals = bits_for(num_sites), np.repeat(np.array(values[:1]), repeats)
    reals[: len(values)] = values[:repeats]
    for kind in (np.float32, np.float64):
        found = encode_weighted(reals.astype(kind), weight, bound=8.0, bits=bits, draw=drawn(seed))
        uniforms = np.random.default_rng(seed).random(repeats + 1)
        np.testing.assert_array_equal(found, encoded_slowly(reals.astype(kind), weight, bits, uniforms))


def test_a_uniform_as_large_as_the_fraction_rounds_down_and_the_next_smaller_one_up() -> None:
    """At 32 bits the step is 1, so that these fractions are the values' own."""
    fractions = np.array([0.5, 2.0**-53, 1 - 2.0**-53, 0.0])
    for uniforms, up in ((fractions, [0, 0, 0, 0]), (np.nextafter(fractions, -1.0), [1, 1, 1, 1])):

        def draw(target: np.ndarray, uniforms: np.ndarray = uniforms) -> None:
            target[:] = np.append(uniforms, 0.0)

        found = encode_weighted(fractions, 1.0, bound=2.0**31 - 1, bits=32, draw=draw)
        assert found[:-1].tolist() == up


@given(
    values=st.lists(st.floats(-8, 8), min_size=1, max_size=20),
    num_sites=st.integers(1, 128),
    seed=st.integers(0, 99),
)
def test_decoding_is_less_than_one_step_away(values: list[float], num_sites: int, seed: int) -> None:
    bits, reals = bits_for(num_sites), np.array(values)
    encoded = encode_weighted(reals, 1.0, bound=8.0, bits=bits, draw=drawn(seed))
    decoded = decode_sum(encoded, bound=8.0, bits=bits, num_sites=1)[:-1]
    assert np.all(np.abs(decoded - reals) < 8.0 / (2 ** (bits - 1) - 1) * (1 + 1e-6))


@given(data=st.data(), key=KEYS, way=st.sampled_from([from_counter_two_by_ctr, from_counter_two_by_gcm]))
def test_a_stream_is_the_keystream_whichever_way_it_is_computed(
    data: st.DataObject, key: bytes, way: Callable[[bytes], CipherContext]
) -> None:
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 15, 16, 17, 31, 32, 33, 4096, CHUNK_BYTES]), max_size=5))
    plain = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(sum(sizes)))
    for stream in (open_stream(key), Stream(open_stream(key).head, way(key))):
        pieces = [np.empty(size, dtype=np.uint8) for size in sizes]
        for piece in pieces:
            stream.fill(piece)
        assert b"".join(piece.tobytes() for piece in pieces) == plain
    with pytest.raises(ValueError, match="words"):
        stream.fill(np.empty(CHUNK_BYTES + 1, dtype=np.uint8))
