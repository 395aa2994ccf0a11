"""The verifier and the institution's own ledger, which share no code: the same figures, whatever was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import Ledger
from client.ledger_account import run_accounts, standing
from client.policy import Refused
from common.privacy.events import Charge, Event
from common.verify.totals import best_epsilon
from tests.ledger_bench import LedgerBench
from tests.verify_ledgers import judged

runs = st.sampled_from(["a", "b", "c", "d"])
noises = st.floats(0.3, 200.0)
rates = st.one_of(st.just(1.0), st.floats(1e-4, 0.999))
charges = st.builds(
    lambda training, table: (
        Charge("train", "training", Event("gaussian", *training)),
        Charge("train", "normalisation", Event("discrete_gaussian", table[0], 1.0, 2)),
        Charge("test", "evaluation", Event("discrete_gaussian", table[1], 1.0, 3)),
    ),
    st.tuples(noises, rates, st.integers(1, 3000)),
    st.tuples(noises, noises),
)
purposes = st.sampled_from(["training", "normalisation", "evaluation"])
requests = st.one_of(
    st.tuples(st.just("reserve"), runs, charges),
    st.tuples(st.just("release"), runs, st.tuples(st.integers(0, 4), purposes, st.integers(1, 900))),
    st.tuples(st.just("settle"), runs, st.none()),
)


def ask(ledger: Ledger, verb: str, run: str, detail: object) -> None:
    try:
        if verb == "reserve":
            ledger.reserve(run, "ab" * 32, detail)  # type: ignore[arg-type]
        elif verb == "settle":
            ledger.settle(run)
        else:
            ledger.release(run, detail[0], "task", detail[1], detail[2])  # type: ignore[index]
    except Refused:
        pass


@settings(max_examples=60)
@given(st.lists(requests, max_size=14), st.sampled_from([1e-7, 1e-5, 1e-3, 0.1]), st.floats(0.5, 5000.0))
def test_needed_spent_and_each_cohorts_figures_are_the_writers(
    asked: list[tuple[str, str, object]], delta: float, budget: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = LedgerBench(Path(folder), lifetime_epsilon=budget, delta=delta)
        with bench.open() as ledger:
            for verb, run, detail in asked:
                ask(ledger, verb, run, detail)
            summary = ledger.spent()
            accounts = tuple(run_accounts(ledger.entries()).values())
        verdict = judged(bench.path, budget=budget)
    stands = standing(accounts, order=summary.order, delta=delta)
    assert verdict.problems == ()  # the filter's total, too, is within the budget that the writer kept
    totals = verdict.totals
    assert totals is not None
    assert totals.header.order == summary.order
    assert totals.needed == pytest.approx(stands.needed, rel=1e-6, abs=1e-9)
    assert totals.spent == pytest.approx(summary.spent, rel=1e-6, abs=1e-9)
    assert totals.largest() == pytest.approx(stands.needed, rel=1e-6, abs=1e-9)  # without cohorts, everyone pays all
    for cost, line in zip(totals.runs, summary.runs, strict=True):
        for cohort, written in zip(cost.cohorts, line.cohorts, strict=True):
            assert cohort.cohort == written.cohort
            reserved, _ = best_epsilon(totals.header, cohort.reserved())
            charged, _ = best_epsilon(totals.header, cohort.counted())
            assert reserved == pytest.approx(written.reserved_epsilon, rel=1e-6, abs=1e-9)
            assert charged == pytest.approx(written.charged_epsilon, rel=1e-6, abs=1e-9)
