"""Encoded vectors: nothing that is not finite gets in, and no sum wraps, at the extremes either."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from common.secagg.encoding import (
    bits_for,
    check_capacity,
    decode_counts,
    decode_sum,
    encode_counts,
    encode_weighted,
)


def drawn(uniforms: np.ndarray) -> Callable[[np.ndarray], None]:
    """Draw these uniforms, once."""
    return lambda target: np.copyto(target, uniforms)


def nought(target: np.ndarray) -> None:
    target[:] = 0.0


def test_bits_leave_room_for_all_sites() -> None:
    assert [bits_for(number) for number in (1, 2, 3, 4, 5, 10, 100, 128)] == [32, 31, 30, 30, 29, 28, 25, 25]


@pytest.mark.parametrize("num_sites", [1, 2, 3, 4, 5, 10, 50, 100, 128])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_sum_of_all_sites_at_the_bound_does_not_wrap(num_sites: int, sign: float) -> None:
    bits, bound = bits_for(num_sites), 8.0
    extreme = np.full(5, sign * bound)
    draws = np.array([0.0, 0.25, 0.5, 0.75, 1 - 2**-53, 0.5])
    encoded = encode_weighted(extreme, 1.0, bound=bound, bits=bits, draw=drawn(draws))
    total = np.zeros(6, dtype=np.uint32)
    for _ in range(num_sites):
        total += encoded
    decoded = decode_sum(total, bound=bound, bits=bits, num_sites=num_sites)
    np.testing.assert_allclose(decoded[:-1], num_sites * extreme, rtol=1e-12)


def test_one_more_bit_would_wrap() -> None:
    for num_sites in (2, 3, 4, 10, 100):
        check_capacity(num_sites, bits_for(num_sites))
        with pytest.raises(ValueError, match="bits"):
            check_capacity(num_sites, bits_for(num_sites) + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 20_000])
def test_what_is_not_finite_is_refused(bad: float, place: int) -> None:
    values = np.zeros(20_001, dtype=np.float32)
    values[place] = bad
    with pytest.raises(ValueError, match="finite"):
        encode_weighted(values, 1.0, bound=8.0, bits=30, draw=nought)
    with pytest.raises(ValueError, match="finite"):
        encode_weighted(np.zeros(3), bad, bound=8.0, bits=30, draw=nought)


@pytest.mark.parametrize(("value", "weight", "cut"), [(8.1, 1.0, 8.0), (-1e30, 1.0, -8.0), (3.0, 4.0, 8.0)])
def test_what_is_beyond_the_bound_is_cut_at_it_and_the_weight_is_kept(value: float, weight: float, cut: float) -> None:
    encoded = encode_weighted(np.array([1.0, value]), weight, bound=8.0, bits=30, draw=nought)
    decoded = decode_sum(encoded, bound=8.0, bits=30, num_sites=1)
    np.testing.assert_allclose(decoded, [weight, cut, weight], atol=1e-7)


def test_a_refusal_does_not_print_the_value() -> None:
    with pytest.raises(ValueError, match="finite") as caught:
        encode_weighted(np.array([12345.678, np.inf]), 1.0, bound=8.0, bits=30, draw=nought)
    assert "12345" not in str(caught.value)


def test_a_bound_that_went_through_float32_is_still_the_bound() -> None:
    values = np.array([0.1], dtype=np.float32)
    encoded = encode_weighted(values, 1.0, bound=0.1, bits=30, draw=nought)
    assert decode_sum(encoded, bound=0.1, bits=30, num_sites=1)[0] == pytest.approx(0.1, rel=1e-8)


@pytest.mark.parametrize(("bound", "bits"), [(0.0, 30), (np.nan, 30), (np.inf, 30), (8.0, 33), (8.0, 7)])
def test_nonsense_is_refused(bound: float, bits: int) -> None:
    with pytest.raises(ValueError, match=r"bound|bits"):
        encode_weighted(np.zeros(1), 1.0, bound=bound, bits=bits, draw=nought)


def test_counts_below_zero_survive_the_sum() -> None:
    sites = [np.array([-5, 3, 0]), np.array([2, -9, 0]), np.array([-1, 7, -4])]
    total = np.zeros(3, dtype=np.uint32)
    for counts in sites:
        total += encode_counts(counts)
    np.testing.assert_array_equal(decode_counts(total), np.sum(sites, axis=0))


@pytest.mark.parametrize("total", [2**31 - 1, -(2**31), 0])
def test_counts_whose_sum_fits_are_read_right_whatever_each_of_them_is(total: int) -> None:
    parts = [2**40, -(2**35) - 7, 5]
    parts.append(total - sum(parts))
    summed = np.zeros(1, dtype=np.uint32)
    for part in parts:
        summed += encode_counts(np.array([part]))
    assert decode_counts(summed)[0] == total


@pytest.mark.parametrize("size", [0, 2**31, -(2**62)])
def test_no_size_of_a_count_is_refused(size: int) -> None:
    assert encode_counts(np.array([size])).dtype == np.uint32


def test_counts_that_are_no_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="integers"):
        encode_counts(np.array([1.0]))


def test_only_uint32_is_decoded() -> None:
    with pytest.raises(ValueError, match="uint32"):
        decode_counts(np.array([1]))
