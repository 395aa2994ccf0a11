"""Masked vectors look uniform whatever is under the mask, and rounding is unbiased; what is wrong is seen to be wrong.

Each verdict is a chi-square statistic against its 1 - 1e-6 quantile, so that a sound one fails once in a million.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from client.site_round import Secrets
from common.secagg.encoding import decode_sum, encode_weighted
from common.secagg.keys import agree
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.transcript import Session
from tests.secagg_round import POST_QUANTUM, SESSION, Message, Script, Trace, Vectors, consortium_of, secure_sum

SIZE = 60_000
CONSORTIUM = consortium_of(4)
QUANTILE = 4.753  # of the standard normal at 1 - 1e-6
INPUTS: dict[str, np.ndarray] = {
    "zeros": np.zeros(SIZE, dtype=np.uint32),
    "extremes": np.full(SIZE, 2**32 - 1, dtype=np.uint32),
    "small numbers": np.arange(SIZE, dtype=np.uint32) % 7,
}


def looks_uniform(words: np.ndarray) -> bool:
    """Chi-square of the counts of each of the four byte positions over 256 values (Wilson and Hilferty's cube)."""
    octets = words.astype("<u4").view(np.uint8).reshape(-1, 4)
    return all(_chi_square_accepts(np.bincount(octets[:, place], minlength=256)) for place in range(4))


def look_independent(left: np.ndarray, right: np.ndarray) -> bool:
    """Chi-square of the joint counts of the top nibbles of two vectors, and of their difference."""
    joint = (left >> np.uint32(28)) * np.uint32(16) + (right >> np.uint32(28))
    return _chi_square_accepts(np.bincount(joint.astype(np.int64), minlength=256)) and looks_uniform(left - right)


def _chi_square_accepts(counts: np.ndarray) -> bool:
    expected = counts.sum() / counts.size
    statistic = float(np.sum((counts - expected) ** 2) / expected)
    freedom = counts.size - 1
    spread = 2.0 / (9.0 * freedom)
    return bool(((statistic / freedom) ** (1 / 3) - (1.0 - spread)) / np.sqrt(spread) < QUANTILE)


def vectors_of(values: np.ndarray) -> dict[str, Vectors]:
    return {name: {"fusion": values} for name in CONSORTIUM.names}


def masked_of(values: np.ndarray, session: Session = SESSION) -> list[np.ndarray]:
    trace = secure_sum(CONSORTIUM, vectors_of(values), Script(session=session))
    return [trace.masked[name]["fusion"] for name in CONSORTIUM.names]


@pytest.mark.parametrize("session", [SESSION, POST_QUANTUM], ids=["X25519", "with ML-KEM"])
@pytest.mark.parametrize("name", sorted(INPUTS))
def test_masked_vectors_are_uniform_whatever_is_under_the_mask(name: str, session: Session) -> None:
    for vector in masked_of(INPUTS[name], session):
        assert looks_uniform(vector)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_vector_without_a_mask_is_seen(name: str) -> None:
    assert not looks_uniform(INPUTS[name])


def test_a_mask_that_leaves_a_bit_alone_is_seen() -> None:
    """A stream without its top bit, added to zeros: half of the values never come."""
    vector = INPUTS["zeros"].copy()
    apply_masks(vector, plus=[b"k" * 32], minus=[])
    assert looks_uniform(vector)
    assert not looks_uniform(vector & np.uint32(0x7FFFFFFF))


def test_a_mask_that_repeats_after_a_while_is_seen() -> None:
    vector = INPUTS["zeros"].copy()
    apply_masks(vector, plus=[b"k" * 32], minus=[])
    assert not looks_uniform(np.tile(vector[:500], SIZE // 500))


def test_masked_vectors_are_independent_of_what_is_under_them_and_of_each_other() -> None:
    values = np.random.default_rng(5).integers(0, 2**32, SIZE, dtype=np.uint32)
    vectors = masked_of(values)
    assert all(look_independent(vector, values) for vector in vectors)
    assert all(look_independent(one, other) for at, one in enumerate(vectors) for other in vectors[:at])


def test_dependence_is_seen() -> None:
    values = np.random.default_rng(5).integers(0, 2**32, SIZE, dtype=np.uint32)
    assert not look_independent(values, values)
    assert not look_independent(values + np.arange(SIZE, dtype=np.uint32) % 1000, values)


def test_the_same_input_is_masked_anew_in_every_round() -> None:
    first, second = masked_of(INPUTS["zeros"]), masked_of(INPUTS["zeros"])
    assert all(look_independent(one, other) for one, other in zip(first, second, strict=True))


def test_a_late_vector_stays_masked_after_its_pair_masks_are_revealed() -> None:
    """A site counted as dropped whose vector arrives after all: its own mask still hides it (and only that one)."""
    late, trace, kept = "site-003", Trace(), dict[str, Secrets]()

    def watch(stage: str, site: str, message: Message) -> Message:
        if stage == "mask":
            kept[site] = trace.states[site].secrets
        return message

    secure_sum(CONSORTIUM, vectors_of(INPUTS["zeros"]), Script(to_site=watch), trace)
    assert trace.view is not None
    table, vector = trace.view.table, trace.masked[late]["fusion"].copy()
    for peer in set(CONSORTIUM.names) - {late}:
        agreed = agree(kept[peer].masking_key, table.advert(late).masking_key)
        key = pair_key(agreed, table.transcript, (late, peer), "fusion")
        apply_masks(vector, plus=[] if adds(late, peer) else [key], minus=[key] if adds(late, peer) else [])
    assert looks_uniform(vector)
    apply_masks(vector, plus=[], minus=[self_key(kept[late].seeds[0], table.transcript, late, "fusion")])
    np.testing.assert_array_equal(vector, INPUTS["zeros"])


def rounded(values: np.ndarray, bits: int, round_to_grid: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """How many standard errors the mean of the rounded values is away from the mean of the values."""
    uniforms = np.random.default_rng(11).random(values.size)
    errors = round_to_grid(values, uniforms) - values
    step = 8.0 / (2 ** (bits - 1) - 1)
    assert np.all(np.abs(errors) <= step * (1 + 1e-6))
    return float(abs(errors.mean()) / (errors.std() / np.sqrt(values.size)))


def test_rounding_is_unbiased() -> None:
    bits = 8

    def ours(values: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        left = np.append(uniforms, 0.0)

        def draw(target: np.ndarray) -> None:
            nonlocal left
            target[:], left = left[: target.size], left[target.size :]

        encoded = encode_weighted(values, 1.0, bound=8.0, bits=bits, draw=draw)
        return decode_sum(encoded, bound=8.0, bits=bits, num_sites=1)[:-1]

    for value in (0.01, -0.01, 3.3, -7.99, 7.999):
        assert rounded(np.full(200_000, value), bits, ours) < QUANTILE


def test_rounding_that_is_biased_by_a_fiftieth_of_a_step_is_seen() -> None:
    bits, step = 8, 8.0 / 127

    def biased(values: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        scaled = values / step
        floor = np.floor(scaled)
        return np.asarray((floor + (uniforms < scaled - floor + 0.02)) * step)

    assert rounded(np.full(200_000, 3.3), bits, biased) > QUANTILE


def test_rounding_to_the_nearest_is_seen() -> None:
    step = 8.0 / 127

    def nearest(values: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        return np.asarray((np.round(values / step) + (uniforms < 1e-3)) * step)

    assert rounded(np.full(200_000, 3.3), 8, nearest) > QUANTILE
