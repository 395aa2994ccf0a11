"""The secure sum is the plain sum, block by block, and only over cohorts that everybody in them accepts."""

from __future__ import annotations

import numpy as np
import pytest

from common.secagg.keystream import CHUNK_BYTES
from common.secagg.transcript import read_advert
from server.accumulate import Accumulator
from server.unmask import RoundAborted
from tests.secagg_round import Message, Script, Trace, Vectors, consortium_of, plain_sum, secure_sum

CHUNK_WORDS = CHUNK_BYTES // 4


def vectors_for(names: tuple[str, ...], lengths: dict[str, int], seed: int = 0) -> dict[str, Vectors]:
    rng = np.random.default_rng(seed)
    return {
        name: {block: rng.integers(0, 2**32, size, dtype=np.uint32) for block, size in lengths.items()}
        for name in names
    }


@pytest.mark.parametrize(
    "num_sites", [3, 4, 5, 10, *(pytest.param(many, marks=pytest.mark.slow) for many in (50, 100))]
)
def test_the_sum_is_exact(num_sites: int) -> None:
    consortium = consortium_of(num_sites)
    vectors = vectors_for(consortium.names, {"encoder/labs": 19, "fusion": 1000})
    trace = secure_sum(consortium, vectors)
    assert trace.refusals == {}
    assert set(trace.sums) == {"encoder/labs", "fusion"}
    for block, (total, sites) in trace.sums.items():
        assert sites == consortium.names
        np.testing.assert_array_equal(total, plain_sum(vectors, block, sites))


def test_the_sum_is_exact_at_awkward_lengths() -> None:
    consortium = consortium_of(3)
    sizes = (1, 2, 3, 5, 17, 4095, CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1, 2 * CHUNK_WORDS + 3)
    vectors = vectors_for(consortium.names, {f"block-{size}": size for size in sizes})
    trace = secure_sum(consortium, vectors)
    assert len(trace.sums) == len(sizes)
    for block, (total, sites) in trace.sums.items():
        np.testing.assert_array_equal(total, plain_sum(vectors, block, sites))


def test_masking_leaves_the_callers_vectors_alone() -> None:
    consortium = consortium_of(3)
    vectors = vectors_for(consortium.names, {"fusion": 40})
    before = {name: blocks["fusion"].copy() for name, blocks in vectors.items()}
    secure_sum(consortium, vectors)
    for name, vector in before.items():
        np.testing.assert_array_equal(vectors[name]["fusion"], vector)


def test_masks_cancel_when_one_site_drops() -> None:
    consortium = consortium_of(4)
    vectors = vectors_for(consortium.names, {"fusion": 33, "head": 5})
    trace = secure_sum(consortium, vectors, Script(drop={"site-002": "mask"}))
    for block, (total, sites) in trace.sums.items():
        assert sites == ("site-000", "site-001", "site-003")
        np.testing.assert_array_equal(total, plain_sum(vectors, block, sites))


def test_sites_with_different_blocks_are_summed_block_by_block() -> None:
    consortium = consortium_of(5)
    vectors = vectors_for(consortium.names, {"fusion": 7, "encoder/ecg": 11})
    for name in ("site-000", "site-003"):
        del vectors[name]["encoder/ecg"]
    trace = secure_sum(consortium, vectors)
    assert trace.sums["encoder/ecg"][1] == ("site-001", "site-002", "site-004")
    for block, (total, sites) in trace.sums.items():
        np.testing.assert_array_equal(total, plain_sum(vectors, block, sites))


def test_a_block_of_two_sites_stays_masked_while_the_others_are_summed() -> None:
    consortium = consortium_of(5)
    vectors = vectors_for(consortium.names, {"fusion": 7, "encoder/ecg": 200})
    for name in ("site-000", "site-002", "site-003"):
        del vectors[name]["encoder/ecg"]
    trace = secure_sum(consortium, vectors)
    assert set(trace.sums) == {"fusion"}
    sent = trace.masked["site-001"]["encoder/ecg"] + trace.masked["site-004"]["encoder/ecg"]
    assert np.mean(sent == plain_sum(vectors, "encoder/ecg", ("site-001", "site-004"))) < 0.05


def test_a_block_whose_cohort_falls_below_the_minimum_by_a_drop_out_is_not_summed() -> None:
    consortium = consortium_of(5)
    vectors = vectors_for(consortium.names, {"fusion": 7, "encoder/ecg": 11})
    for name in ("site-000", "site-001"):
        del vectors[name]["encoder/ecg"]
    trace = secure_sum(consortium, vectors, Script(drop={"site-004": "mask"}))
    assert set(trace.sums) == {"fusion"}


def test_the_strictest_minimum_in_a_cohort_counts_for_all_of_it() -> None:
    consortium = consortium_of(5)
    vectors = vectors_for(consortium.names, {"fusion": 7, "encoder/ecg": 11})
    del vectors["site-000"]["encoder/ecg"]
    trace = secure_sum(consortium, vectors, Script(site_k_min={"site-001": 5}))
    assert set(trace.sums) == {"fusion"}
    trace = secure_sum(consortium, vectors, Script(site_k_min={"site-000": 5}))
    assert set(trace.sums) == {"fusion", "encoder/ecg"}


def test_a_site_that_asks_for_more_sites_than_there_are_is_left_out_alone() -> None:
    consortium = consortium_of(4)
    vectors = vectors_for(consortium.names, {"fusion": 7})
    trace = secure_sum(consortium, vectors, Script(site_k_min={"site-001": 9}))
    assert trace.view is not None
    assert dict(trace.view.left_out) == {"site-001": "cohort"}
    assert trace.sums["fusion"][1] == ("site-000", "site-002", "site-003")


def test_a_site_that_differs_from_the_others_is_left_out_by_the_coordinator() -> None:
    consortium = consortium_of(5)
    vectors = vectors_for(consortium.names, {"fusion": 7})
    vectors["site-003"]["fusion"] = np.zeros(8, dtype=np.uint32)

    def scramble(stage: str, site: str, reply: Message) -> Message:
        return (reply[0][:-1],) if (stage, site) == ("advertise", "site-001") else reply

    trace = secure_sum(consortium, vectors, Script(to_server=scramble))
    assert trace.view is not None
    assert set(trace.view.left_out) == {"site-001", "site-003"}
    assert trace.sums["fusion"][1] == ("site-000", "site-002", "site-004")


def test_two_sites_are_summed_only_where_both_allow_it() -> None:
    consortium = consortium_of(2)
    vectors = vectors_for(consortium.names, {"fusion": 7})
    assert secure_sum(consortium, vectors, Script(k_min=2)).sums["fusion"][1] == consortium.names
    with pytest.raises(RoundAborted):
        secure_sum(consortium, vectors, Script(k_min=3))


def test_an_accumulator_adds_all_of_a_site_or_nothing() -> None:
    consortium = consortium_of(4)
    vectors = vectors_for(consortium.names, {"fusion": 7, "head": 3})
    trace = secure_sum(consortium, vectors)
    assert trace.routing is not None
    accumulator = Accumulator(trace.routing)
    good = trace.masked["site-000"]
    assert not accumulator.add("site-000", {"fusion": good["fusion"]})
    assert not accumulator.add("site-000", {**good, "head": good["head"][:2]})
    assert not accumulator.add("site-000", {**good, "head": good["head"].astype(np.int64)})
    assert not accumulator.add("stranger", good)
    assert all(not total.any() for total in accumulator.totals.values())
    assert accumulator.add("site-000", good)
    assert not accumulator.add("site-000", good)
    np.testing.assert_array_equal(accumulator.totals["fusion"], good["fusion"])
    assert accumulator.sites == ("site-000",)


def test_an_advert_tells_nothing_that_is_not_in_its_fields() -> None:
    """Same session, site, blocks: only keys, commitments and signature differ between two very different inputs."""
    consortium = consortium_of(3)
    low, high = ({name: {"fusion": np.full(9, fill, dtype=np.uint32)} for name in consortium.names} for fill in (0, 7))
    traces: list[Trace] = [secure_sum(consortium, low), secure_sum(consortium, high)]
    first, second = (read_advert(trace.adverts["site-000"]) for trace in traces)
    assert len(traces[0].adverts["site-000"]) == len(traces[1].adverts["site-000"])
    assert (first.session, first.institution, first.k_min) == (second.session, second.institution, second.k_min)
    assert [(b.name, b.length) for b in first.blocks] == [(b.name, b.length) for b in second.blocks]
