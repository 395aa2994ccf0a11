"""The graph's bound against exact fractions; the smallest degree that keeps a promise; what a site refuses."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from math import comb, log2
from typing import Any

import pytest

from common.secagg.assembly import Assembly, Call
from common.secagg.graph import STANDARD, Promise, Shape, bound_of, choose_shape, keeps
from common.secagg.identity import new_identity
from common.secagg.roster import LARGEST_COMPLETE, guaranteed_honest, sign_roster
from common.secagg.transcript import Session

ROSTER = sign_roster({f"site-{number}": new_identity().public_key for number in range(9)}, new_identity())


def tail(population: int, marked: int, draws: int, least: int) -> Fraction:
    """The naive twin: at least so many marked among the draws, counted."""
    ways = (comb(marked, hits) * comb(population - marked, draws - hits) for hits in range(max(least, 0), draws + 1))
    return Fraction(sum(ways), comb(population, draws))


def counted(shape: Shape, colluders: int, silent: int) -> tuple[Fraction, Fraction, Fraction]:
    others, honest = shape.num_sites - 1, shape.num_sites - colluders
    secrets = honest * tail(others, colluders, shape.degree, 2 * shape.threshold - shape.degree)
    silence = shape.num_sites * tail(others, silent, shape.degree, shape.degree - shape.threshold + 1)
    split = sum(
        comb(honest, size) * tail(others, size - 1 + colluders, shape.degree, shape.threshold) ** size
        for size in range(1, honest // 2 + 1)
    )
    return secrets, Fraction(split), silence


@pytest.mark.parametrize(
    ("shape", "colluders", "silent"),
    [(Shape(24, 8, 6), 3, 2), (Shape(30, 15, 10), 3, 5), (Shape(60, 20, 14), 12, 6), (Shape(41, 5, 3), 0, 0)],
)
def test_the_bound_is_the_sum_that_it_says(shape: Shape, colluders: int, silent: int) -> None:
    bound = bound_of(shape, colluders, silent)
    for figure, exact in zip(
        (bound.secrets, bound.split, bound.silence), counted(shape, colluders, silent), strict=True
    ):
        assert figure == (pytest.approx(log2(exact), abs=1e-9) if exact else -float("inf"))


@pytest.mark.parametrize("num_sites", [101, 150, 300, 667, 1000, 10_000])
def test_the_shape_keeps_the_standard_promise_and_one_neighbour_less_does_not(num_sites: int) -> None:
    shape = choose_shape(num_sites, num_sites)
    bound = bound_of(shape, num_sites // 5, num_sites // 10)
    assert bound.privacy <= -40 + 1e-6
    assert bound.silence <= -20
    for threshold in range(1, shape.degree):
        thinner = bound_of(Shape(num_sites, shape.degree - 1, threshold), num_sites // 5, num_sites // 10)
        assert thinner.privacy > -40 + 1e-6 or thinner.silence > -20


def test_the_degree_at_a_thousand_sites() -> None:
    # No outside source: the figures that docs/scale.md quotes, so that a change of the bound is seen.
    assert choose_shape(1000, 1000) == Shape(1000, 138, 102)
    assert choose_shape(100_000, 100_000) == Shape(100_000, 200, 147)


@pytest.mark.parametrize("num_sites", [120, 300])
def test_fewer_colluders_are_never_worse_than_the_promised_ones(num_sites: int) -> None:
    shape = choose_shape(num_sites, num_sites)
    figures = [bound_of(shape, colluders, 0).privacy for colluders in range(num_sites // 5 + 1)]
    assert figures == sorted(figures)


def test_more_colluders_than_promised_break_the_bound() -> None:
    shape = choose_shape(300, 300)
    assert bound_of(shape, 100, 0).secrets > -10
    assert bound_of(shape, 180, 0).secrets > 0


def test_what_is_no_graph_is_not_private() -> None:
    good = choose_shape(150, 150)
    assert keeps(good, 150)
    for bad in (
        replace(good, threshold=0),
        replace(good, threshold=good.degree + 1),
        replace(good, degree=150),
        replace(good, threshold=good.threshold - 2),
        replace(good, degree=4, threshold=3),
    ):
        assert not keeps(bad, 150)
    assert not keeps(replace(good, num_sites=20, degree=19), 150)  # all of them could collude


def test_a_promise_that_no_graph_keeps_is_an_error() -> None:
    with pytest.raises(ValueError, match="no graph among 101 sites"):
        choose_shape(101, 101, Promise(colluders=Fraction(9, 10)))


def test_a_large_roster_has_more_than_half_of_its_honest_sites_in_every_sum() -> None:
    assert guaranteed_honest(LARGEST_COMPLETE) == 45
    for size in (101, 150, 1000, 4321):
        present = 2 * size // 3 + 1
        assert 2 * guaranteed_honest(size) > present - STANDARD.num_colluders(size)
        assert 2 * (guaranteed_honest(size) - 1) <= present - STANDARD.num_colluders(size)


def test_everything_that_sites_must_agree_on_is_in_the_first_transcript() -> None:
    session = Session("run-1", 3, "training", b"m" * 32, b"p" * 32)
    call = Call(b"\xff\x80", 5, 4)
    assembly = Assembly(call, ROSTER, session, (("fusion", 9),))
    others = [
        *(replace(assembly, call=replace(call, **change)) for change in _changes(call)),
        *(replace(assembly, session=replace(session, **change)) for change in _changes(session)),
        replace(assembly, blocks=(("fusion", 10),)),
        replace(assembly, blocks=(("fusiom", 9),)),
        replace(assembly, roster=sign_roster(dict(ROSTER.entries), new_identity())),
    ]
    hashes = {other.transcript for other in [assembly, *others]}
    assert len(hashes) == len(others) + 1
    finals = {assembly.final_transcript(b"a", b"b"), assembly.final_transcript(b"a", b"c")}
    assert len(finals | {assembly.final_transcript(b"ab", b"b"), assembly.final_transcript(b"", b"ab")}) == 4


def _changes(value: Call | Session) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, old in vars(value).items():
        if isinstance(old, bool):
            continue
        found.append({name: old + (b"!" if isinstance(old, bytes) else "!" if isinstance(old, str) else 1)})
    return found


def test_a_shape_that_costs_too_much_to_judge_is_refused_before_it_is_judged() -> None:
    tracemalloc.start()
    try:
        for shape in (Shape(10_000, 9_999, 1), Shape(10_000, 9_999, 9_999), Shape(5_000, 4_999, 3_500)):
            assert not keeps(shape, shape.num_sites)
        assert not keeps(Shape(10_000, 900, 1), 10_000)
        assert tracemalloc.get_traced_memory()[1] < 50e6  # it was 2.6 GB for the first alone
    finally:
        tracemalloc.stop()
    assert keeps(choose_shape(1000, 1000), 1000)
