"""Whoever drops out wherever: the exact sum over the survivors, or an abort, exactly below the threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.secagg.transcript import Session
from server.unmask import RoundAborted
from tests.secagg_round import POST_QUANTUM, SESSION, STAGES, Script, Vectors, consortium_of, plain_sum, secure_sum

REASONS = {"share": "shares", "mask": "vectors", "check": "agreement", "reveal": "reveals"}
BLOCKS = {"encoder/ecg": 3, "encoder/labs": 5, "fusion": 9}
MANY = consortium_of(7)


@dataclass(frozen=True)
class Case:
    """Which blocks each site holds, where it falls silent (or not at all), the smallest cohort, and the session."""

    held: dict[str, tuple[str, ...]]
    drop: dict[str, str]
    k_min: int
    session: Session


@st.composite
def cases(draw: st.DrawFn) -> Case:
    names = MANY.names[: draw(st.integers(3, 7))]
    held = {name: ("fusion", *draw(st.sets(st.sampled_from(["encoder/ecg", "encoder/labs"])))) for name in names}
    stages = draw(st.lists(st.sampled_from([*STAGES, *[""] * 6]), min_size=len(names), max_size=len(names)))
    drop = {name: stage for name, stage in zip(names, stages, strict=True) if stage}
    return Case(held, drop, draw(st.integers(2, 3)), draw(st.sampled_from([SESSION, POST_QUANTUM])))


def still_there(case: Case, stage: str) -> list[str]:
    """The sites that answer a stage: those that fall silent later or never."""
    later = STAGES[STAGES.index(stage) + 1 :]
    return [name for name in sorted(case.held) if name not in case.drop or case.drop[name] in later]


def expected_cohorts(case: Case) -> dict[str, tuple[str, ...]] | None:
    """The oracle: each summed block's sites, or None where the round must abort."""
    counts = {stage: len(still_there(case, stage)) for stage in STAGES}
    threshold = 2 * counts["advertise"] // 3 + 1
    if counts["advertise"] < case.k_min or min(counts.values()) < threshold:
        return None
    alive = still_there(case, "mask")
    cohorts = {block: tuple(name for name in alive if block in case.held[name]) for block in BLOCKS}
    return {block: cohort for block, cohort in cohorts.items() if len(cohort) >= case.k_min} or None


def vectors_of(case: Case) -> dict[str, Vectors]:
    rng = np.random.default_rng(1)
    return {
        name: {block: rng.integers(0, 2**32, BLOCKS[block], dtype=np.uint32) for block in blocks}
        for name, blocks in case.held.items()
    }


@settings(max_examples=80)
@given(case=cases())
def test_drop_outs_give_the_exact_sum_over_the_survivors_or_an_abort(case: Case) -> None:
    drop = {**dict.fromkeys(set(MANY.names) - set(case.held), "advertise"), **case.drop}
    vectors, script = vectors_of(case), Script(k_min=case.k_min, drop=drop, session=case.session)
    vectors |= {name: {"fusion": np.zeros(9, dtype=np.uint32)} for name in MANY.names if name not in vectors}
    expected = expected_cohorts(case)
    if expected is None:
        with pytest.raises(RoundAborted):
            secure_sum(MANY, vectors, script)
        return
    trace = secure_sum(MANY, vectors, script)
    assert trace.refusals == {}
    assert {block: sites for block, (_, sites) in trace.sums.items()} == expected
    for block, (total, sites) in trace.sums.items():
        np.testing.assert_array_equal(total, plain_sum(vectors, block, sites))


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("num_sites", [3, 4, 5, 6, 7])
def test_the_round_aborts_exactly_when_fewer_than_the_threshold_remain(stage: str, num_sites: int) -> None:
    names, threshold = MANY.names[:num_sites], 2 * num_sites // 3 + 1
    vectors = {name: {"fusion": np.arange(9, dtype=np.uint32)} for name in MANY.names}
    strangers = dict.fromkeys(MANY.names[num_sites:], "advertise")
    enough = Script(k_min=2, drop={**strangers, **dict.fromkeys(names[threshold:], stage)})
    assert secure_sum(MANY, vectors, enough).sums
    too_few = Script(k_min=2, drop={**strangers, **dict.fromkeys(names[threshold - 1 :], stage)})
    with pytest.raises(RoundAborted) as caught:
        secure_sum(MANY, vectors, too_few)
    assert caught.value.reason == REASONS[stage]
