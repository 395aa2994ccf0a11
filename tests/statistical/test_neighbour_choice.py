"""The neighbours that a site chooses are uniform: each other site as often as any, and none because of another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from client import mask, neighbours
from common.secagg.assembly import Call, write_members
from simulations.bench.crowd import Crowd
from tests.large_round import DEGREE, NUM_SITES, SMALL, THRESHOLD, lying_crowd

ROUNDS, CHOOSER = 400, 4


def largest_deviations(choose: Callable[[], tuple[int, ...]]) -> tuple[float, float]:
    """In standard errors: how far the count of one site, and of one pair of sites, is off at most."""
    drawn = np.zeros((ROUNDS, NUM_SITES))
    for row in drawn:
        row[list(choose())] = 1
    others = np.delete(drawn, CHOOSER, axis=1)
    count = others.shape[1]
    share, both = DEGREE / count, DEGREE * (DEGREE - 1) / (count * (count - 1))
    singles = others.mean(axis=0)
    pairs = (others.T @ others / ROUNDS)[np.triu_indices(count, 1)]
    return (
        float(np.abs(singles - share).max() / np.sqrt(share * (1 - share) / ROUNDS)),
        float(np.abs(pairs - both).max() / np.sqrt(both * (1 - both) / ROUNDS)),
    )


def chooser_of(crowd: Crowd) -> Callable[[], tuple[int, ...]]:
    site = crowd.sites[CHOOSER]
    session = mask.Session("run-1", 1, "training", bytes(32), bytes(32))
    state, _ = mask.advertise(session, site.identity, {"fusion": 5}, institution=site.name, k_min=3)
    call = Call(write_members(range(NUM_SITES), NUM_SITES), DEGREE, THRESHOLD)
    return lambda: neighbours.choose(state, call, crowd.roster, 3, SMALL)[1]


def test_every_other_site_and_every_pair_is_chosen_equally_often() -> None:
    single, pair = largest_deviations(chooser_of(lying_crowd()))
    # Among 29 sites and 406 pairs: 5.5 standard errors come up by chance less than once in ten thousand.
    assert single < 5.5
    assert pair < 5.5


def test_a_choice_that_leans_is_seen() -> None:
    rng = np.random.default_rng(3)
    others = np.delete(np.arange(NUM_SITES), CHOOSER)
    weights = np.where(others < 10, 1.6, 1.0)

    def leaning() -> tuple[int, ...]:
        return tuple(rng.choice(others, DEGREE, replace=False, p=weights / weights.sum()))

    def together() -> tuple[int, ...]:
        start = int(rng.integers(others.size))
        return tuple(np.take(others, range(start, start + DEGREE), mode="wrap"))

    assert largest_deviations(leaning)[0] > 5.5
    assert largest_deviations(together)[1] > 5.5
