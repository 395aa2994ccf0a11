"""The parts of the protocol against slow, obvious twins."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.secagg.edge import ENVELOPE_BYTES, read_box
from common.secagg.errors import ProtocolError
from common.secagg.hybrid import CIPHERTEXT_BYTES
from common.secagg.keystream import CHUNK_BYTES, keystream
from common.secagg.layout import join, join_names, split, split_names
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.shamir import PRIME, SECRET_BYTES, combine, draw_secret, share_secret, weights_at_zero
from common.secagg.table import read_table
from common.secagg.transcript import MASKING_KEY
from tests.secagg_round import POST_QUANTUM, SESSION, Script, Trace, consortium_of, secure_sum

SECRETS = st.integers(0, PRIME - 1).map(lambda number: number.to_bytes(SECRET_BYTES, "big"))
KEYS = st.binary(min_size=32, max_size=32)


@given(secret=SECRETS, num_shares=st.integers(1, 12), data=st.data())
def test_any_threshold_of_shares_rebuilds_the_secret(secret: bytes, num_shares: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, num_shares))
    shares = share_secret(secret, threshold=threshold, num_shares=num_shares)
    points = data.draw(st.permutations(range(1, num_shares + 1)))[:threshold]
    assert combine([shares[point - 1] for point in points], weights_at_zero(points)) == secret


@given(secret=SECRETS, num_shares=st.integers(2, 8))
def test_one_share_too_few_gives_something_else(secret: bytes, num_shares: int) -> None:
    shares = share_secret(secret, threshold=num_shares, num_shares=num_shares)
    points = range(1, num_shares)
    assert combine(shares[:-1], weights_at_zero(points)) != secret


@given(points=st.lists(st.integers(1, 30), min_size=1, max_size=6, unique=True))
def test_weights_are_those_of_lagrange_in_exact_fractions(points: list[int]) -> None:
    for weight, own in zip(weights_at_zero(points), points, strict=True):
        exact = Fraction(1)
        for other in points:
            if other != own:
                exact *= Fraction(other, other - own)
        assert weight * exact.denominator % PRIME == exact.numerator % PRIME


def test_secrets_and_thresholds_out_of_range_are_refused() -> None:
    too_large = PRIME.to_bytes(SECRET_BYTES, "big")
    for secret, threshold, number in ((too_large, 1, 1), (b"short", 1, 1), (bytes(32), 0, 1), (bytes(32), 3, 2)):
        with pytest.raises(ValueError, match=r"secret|threshold"):
            share_secret(secret, threshold=threshold, num_shares=number)
    for points in ([0], [1, 1]):
        with pytest.raises(ValueError, match="points"):
            weights_at_zero(points)


def test_the_prime_is_prime() -> None:
    """Fermat's test to 20 bases; 2^256 - 189 is the largest prime below 2^256."""
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 22))


@given(fields=st.lists(st.binary(max_size=40), max_size=6))
def test_fields_come_back_as_they_were(fields: list[bytes]) -> None:
    assert list(split(join(fields))) == fields


@given(left=st.lists(st.binary(max_size=4), max_size=4), right=st.lists(st.binary(max_size=4), max_size=4))
def test_different_fields_give_different_bytes(left: list[bytes], right: list[bytes]) -> None:
    assert (join(left) == join(right)) is (left == right)


@given(body=st.binary(max_size=60))
def test_any_bytes_are_fields_in_one_way_or_none(body: bytes) -> None:
    try:
        fields = split(body)
    except ValueError:
        return
    assert join(fields) == body


@given(names=st.lists(st.text(min_size=1, max_size=60).filter(lambda t: t.isprintable()), max_size=5))
def test_names_come_back_as_they_were(names: list[str]) -> None:
    assert list(split_names(join_names(names))) == names


def masked_slowly(vector: np.ndarray, plus: list[bytes], minus: list[bytes]) -> np.ndarray:
    """The naive twin of apply_masks: whole streams, Python's integers."""
    total = vector.tolist()
    for sign, keys in ((1, plus), (-1, minus)):
        for key in keys:
            words = np.frombuffer(keystream(key, bytes(16), 4 * len(total)), dtype="<u4").tolist()
            total = [(one + sign * other) % 2**32 for one, other in zip(total, words, strict=True)]
    return np.array(total, dtype=np.uint32)


@settings(max_examples=40)
@given(
    size=st.one_of(st.integers(0, 70), st.sampled_from([CHUNK_BYTES // 4 - 1, CHUNK_BYTES // 4, CHUNK_BYTES // 4 + 1])),
    plus=st.lists(KEYS, max_size=3),
    minus=st.lists(KEYS, max_size=3),
    seed=st.integers(0, 99),
)
def test_masking_in_place_is_masking_slowly(size: int, plus: list[bytes], minus: list[bytes], seed: int) -> None:
    vector = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    quick = vector.copy()
    apply_masks(quick, plus=plus, minus=minus)
    np.testing.assert_array_equal(quick, masked_slowly(vector, plus, minus))
    apply_masks(quick, plus=minus, minus=plus)
    np.testing.assert_array_equal(quick, vector)


@given(key=KEYS, transcript=KEYS, left=st.text(max_size=3), right=st.text(max_size=3), block=st.text(max_size=3))
def test_mask_keys_are_bound_to_transcript_block_and_pair(
    key: bytes, transcript: bytes, left: str, right: str, block: str
) -> None:
    own = pair_key(key, transcript, (left, right), block)
    assert own == pair_key(key, transcript, (right, left), block)
    others = (
        pair_key(key, transcript, (left, right + "x"), block),
        pair_key(key, transcript, (left, right), block + "x"),
        pair_key(key, transcript + b"x", (left, right), block),
        self_key(key, transcript, left, block),
    )
    assert own not in others
    assert adds(left, right) is not adds(right, left) or left == right


def _table_of_five(*, post_quantum: bool) -> Trace:
    consortium = consortium_of(5)
    one = {"fusion": np.zeros(2, dtype=np.uint32), "head": np.zeros(1, dtype=np.uint32)}
    script = Script(session=POST_QUANTUM if post_quantum else SESSION)
    return secure_sum(consortium, dict.fromkeys(consortium.names, one), script)


def _fields() -> st.SearchStrategy[bytes]:
    """Fields of the lengths that matter, in any number and order."""
    lengths = st.sampled_from([0, 96, CIPHERTEXT_BYTES, ENVELOPE_BYTES, 124])
    any_order = st.lists(lengths.map(bytes), max_size=5)
    whole = st.sampled_from([[96, 124], [96, CIPHERTEXT_BYTES, 0, 9], [96, CIPHERTEXT_BYTES, ENVELOPE_BYTES, 9]])
    return st.one_of(any_order, whole.map(lambda sizes: [bytes(size) for size in sizes])).map(join)


@given(data=st.data())
def test_no_view_ever_reveals_both_secrets_of_one_site(data: st.DataObject) -> None:
    table = read_table(list(FIVE.adverts.values()), 4)
    survivors = data.draw(st.sets(st.sampled_from(table.sites)))
    blocks = data.draw(st.sets(st.sampled_from(table.blocks)))
    items = table.revealed_items(table.sites, survivors, blocks)
    assert len(set(items)) == len(items)
    masking = {dealer for dealer, name in items if name == MASKING_KEY}
    seeds = {dealer for dealer, name in items if name != MASKING_KEY}
    assert not masking & seeds
    assert masking == set(table.sites) - survivors
    assert {name for _, name in items} - {MASKING_KEY} <= blocks


@given(body=st.one_of(st.binary(max_size=80), _fields()), post_quantum=st.booleans(), rising=st.booleans())
def test_any_bytes_are_a_sealed_box_in_one_way_or_none(body: bytes, post_quantum: bool, rising: bool) -> None:
    table = read_table(list(FIVE_OF[post_quantum].adverts.values()), 4)
    edge = table.edge(*(table.sites[:2] if rising else table.sites[1::-1]))
    try:
        box = read_box(edge, body)
    except ProtocolError:
        return
    assert box.to_bytes() == body


FIVE_OF = {post_quantum: _table_of_five(post_quantum=post_quantum) for post_quantum in (False, True)}
FIVE = FIVE_OF[False]


def test_drawn_secrets_fit_the_field_and_differ() -> None:
    drawn = {draw_secret() for _ in range(100)}
    assert len(drawn) == 100
    assert all(int.from_bytes(secret, "big") < PRIME for secret in drawn)
