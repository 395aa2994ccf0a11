"""Whoever drops out of a large sum wherever: the exact sum over the survivors, or an abort, and never for a few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.large_messages import ChooseRequest, LargeMaskRequest, LargeShareRequest
from common.messages import Task
from common.secagg.assembly import read_members, write_members
from common.secagg.errors import ProtocolError
from server.unmask import RoundAborted
from simulations.bench.crowd import STAGES
from tests.large_round import DEGREE, NUM_SITES, THRESHOLD, large_sum, lying_crowd, plain_sums

BEFORE_VECTORS = (Task, ChooseRequest, LargeShareRequest, LargeMaskRequest)
FEWEST = 2 * NUM_SITES // 3 + 1


def silences(most: int) -> st.SearchStrategy[dict[int, type]]:
    return st.dictionaries(st.integers(0, NUM_SITES - 1), st.sampled_from(STAGES), max_size=most)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(silent=silences(DEGREE - THRESHOLD))
def test_as_many_as_a_site_can_miss_of_its_neighbours_never_stop_the_exact_sum(silent: dict[int, type]) -> None:
    # A site that never answered is in nobody's choice, and the others' degree grows with what is left.
    silent = {node: stage for node, stage in silent.items() if stage is not Task}
    crowd = lying_crowd(silent=silent)
    sums = large_sum(crowd)
    alive = [node for node in range(NUM_SITES) if silent.get(node) not in BEFORE_VECTORS]
    assert crowd.refusals == {}
    for name, numbers in plain_sums(crowd, alive).items():
        total, sites = sums[name]
        assert sites == tuple(crowd.sites[node].name for node in alive)
        np.testing.assert_array_equal(total, numbers)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(silent=silences(NUM_SITES))
def test_any_drop_outs_give_the_exact_sum_over_the_survivors_or_an_abort(silent: dict[int, type]) -> None:
    crowd = lying_crowd(silent=silent)
    alive = [node for node in range(NUM_SITES) if silent.get(node) not in BEFORE_VECTORS]
    enough = NUM_SITES - len(silent) >= FEWEST
    try:
        sums = large_sum(crowd)
    except RoundAborted:
        assert len(silent) > DEGREE - THRESHOLD or not enough
        return
    assert sums
    for name, (total, sites) in sums.items():
        nodes = [node for node, site in enumerate(crowd.sites) if site.name in sites]
        assert set(nodes) <= set(alive)
        np.testing.assert_array_equal(total, plain_sums(crowd, nodes)[name])


@given(size=st.integers(1, 200), data=st.data())
def test_members_come_back_from_their_bitmap(size: int, data: st.DataObject) -> None:
    members = data.draw(st.sets(st.integers(0, size - 1)))
    assert read_members(write_members(members, size), size) == tuple(sorted(members))


@given(size=st.integers(1, 64), body=st.binary(max_size=10))
def test_any_bytes_are_one_set_of_members_or_refused(size: int, body: bytes) -> None:
    try:
        members = read_members(body, size)
    except ProtocolError:
        return
    assert write_members(members, size) == body


def test_a_bit_beyond_the_roster_is_refused() -> None:
    assert read_members(b"\x80\x80", 9) == (0, 8)
    with pytest.raises(ProtocolError, match="bitmap"):
        read_members(b"\x80\x40", 9)
