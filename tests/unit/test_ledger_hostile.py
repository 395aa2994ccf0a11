"""What a hostile server's plan cannot do to a ledger: choose its order, or pass with hardly any noise."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from client.ledger_account import BudgetRefused
from client.ledger_schema import LedgerBroken
from common.privacy.plan import Charge, Event
from common.privacy.renyi import _curve
from tests.ledger_bench import LedgerBench, charges_of


@pytest.fixture
def bench(tmp_path: Path) -> LedgerBench:
    return LedgerBench(tmp_path)


def test_a_first_run_of_hardly_any_cost_does_not_choose_the_order_for_ever(bench: LedgerBench) -> None:
    hostile = charges_of(noise=1e9, table_noise=1e9)  # at order 512 the slack of its lattice is all that it costs
    with bench.open() as ledger:
        before = ledger.spent().order
        ledger.reserve("hostile", "hash", hostile)
        ledger.reserve("honest", "hash", charges_of())
        assert ledger.spent().order == before == 2
    with replace(bench, lifetime_epsilon=5.9).open() as ledger:
        assert ledger.spent().order == before  # chosen when the ledger was made; today's policy moves only the limit
        with pytest.raises(BudgetRefused):
            ledger.reserve("another", "hash", charges_of())


def test_a_ledger_whose_first_run_chose_the_order_is_refused_with_a_reason(bench: LedgerBench) -> None:
    bench.open().close()
    connection = sqlite3.connect(bench.path)
    connection.executescript(
        "DROP TRIGGER entries_no_update; UPDATE entries SET body = replace(body, 'order\":2', 'x\":2')"
    )
    connection.close()
    with pytest.raises(LedgerBroken, match="of an earlier release"):
        bench.open()


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_hardly_any_noise_is_beyond_every_budget(bench: LedgerBench, rate: float) -> None:
    # Where terms of the sampled sum are infinite, their difference is no number, and compares with nothing.
    assert all(cost == math.inf for cost in _curve(1e-156, rate))
    with pytest.raises(ValueError, match="must be at least"):
        Event("gaussian", 1e-156, rate, 1)
    with bench.open() as ledger, pytest.raises(BudgetRefused):
        ledger.reserve("naked", "hash", (Charge("train", "training", Event("gaussian", 1e-3, rate, 1)),))
