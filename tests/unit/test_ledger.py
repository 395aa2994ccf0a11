"""The ledger's answers, one claim at a time; processes and crashes are in test_ledger_processes."""

from __future__ import annotations

import pickle
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.ledger_account import BudgetRefused
from client.ledger_schema import LedgerBroken
from client.policy import Refused
from common.privacy.plan import Charge, Event
from common.privacy.renyi import ORDERS, renyi, renyi_bound, renyi_epsilon
from tests.ledger_bench import LedgerBench, charges_of


@pytest.fixture
def bench(tmp_path: Path) -> LedgerBench:
    return LedgerBench(tmp_path)


def naive_repeats(charges: tuple[Charge, ...], bench: LedgerBench) -> int:
    """How often the costliest cohort fits, by the formula of the filter, some order having room."""
    costs = renyi([charges[0].event])
    bounds = [renyi_bound(order, bench.lifetime_epsilon, bench.delta) for order in ORDERS]
    return max(int(bound / cost) for bound, cost in zip(bounds, costs, strict=True) if bound > 0)


def test_an_empty_ledger_has_spent_nothing(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        summary = ledger.spent()
        assert (summary.spent, summary.left, summary.entries, summary.runs) == (0.0, 20.0, 1, ())
        ledger.verify()


def test_a_reservation_is_charged_at_once_and_outlives_the_process(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
    with bench.open() as ledger:
        summary = ledger.spent()
    costs = renyi([charges_of()[0].event])
    assert summary.spent == pytest.approx(renyi_epsilon(costs, bench.delta), rel=1e-12)
    assert summary.left == pytest.approx(20.0 - summary.spent)
    assert [line.run for line in summary.runs] == ["run-1"]


def test_the_same_reservation_again_is_charged_once(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        for _ in range(3):
            ledger.reserve("run-1", "hash", charges_of())
        assert ledger.spent().entries == 2


@pytest.mark.parametrize(
    "other", [("other", charges_of()), ("hash", charges_of(noise=8.0)), ("hash", charges_of()[:1])]
)
def test_another_plan_under_the_same_run_is_refused(bench: LedgerBench, other: tuple[str, tuple[Charge, ...]]) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
        with pytest.raises(Refused, match="reserved under another plan") as refusal:
            ledger.reserve("run-1", *other)
        assert refusal.value.code == "replay"


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_runs_add_up_until_no_order_has_room(bench: LedgerBench, rate: float) -> None:
    charges = (Charge("train", "training", Event("gaussian", 2.5, rate, 20)),)
    expected = naive_repeats(charges, bench)
    assert 1 < expected < 200
    with bench.open() as ledger:
        for number in range(expected):
            ledger.reserve(f"run-{number}", "hash", charges)
        with pytest.raises(BudgetRefused, match="20 is allowed") as refusal:
            ledger.reserve("run-last", "hash", charges)
        assert refusal.value.code == "budget"
        assert ledger.spent().spent <= 20.0
        assert len(ledger.spent().runs) == expected


def test_a_refused_run_leaves_no_trace_and_a_smaller_one_still_fits(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        with pytest.raises(BudgetRefused):
            ledger.reserve("greedy", "hash", charges_of(noise=1.0))
        assert ledger.spent().entries == 1
        ledger.reserve("modest", "hash", charges_of())
        with pytest.raises(BudgetRefused):
            ledger.reserve("greedy", "hash", charges_of(noise=2.0))
        ledger.reserve("small", "hash", charges_of(noise=200.0))
        assert [line.run for line in ledger.spent().runs] == ["modest", "small"]


def test_cohorts_of_one_run_are_disjoint_and_runs_are_not(bench: LedgerBench) -> None:
    train = Charge("train", "training", Event("gaussian", 10.0, 1.0, 50))
    test = Charge("test", "evaluation", Event("discrete_gaussian", 1.2, 1.0, 1))
    with bench.open() as ledger:
        ledger.reserve("train-heavy", "hash", (train, replace(test, event=replace(test.event, noise_multiplier=9.0))))
        ledger.reserve("test-heavy", "hash", (replace(train, event=replace(train.event, noise_multiplier=90.0)), test))
        summary = ledger.spent()
    both = [a + b for a, b in zip(renyi([train.event]), renyi([test.event]), strict=True)]
    assert summary.spent == pytest.approx(renyi_epsilon(both, bench.delta), rel=1e-12)


def test_a_release_is_written_once_and_repeated_for_free(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of(steps=2))
        assert ledger.release("run-1", 1, "task", "training", 1) is True
        assert ledger.release("run-1", 1, "task", "training", 1) is False
        assert ledger.release("run-1", 2, "task", "training", 1) is True
        assert ledger.release("run-1", 0, "task", "evaluation", 1) is True
        assert ledger.spent().entries == 5


def test_no_more_is_released_than_was_reserved(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of(steps=10))
        ledger.release("run-1", 1, "task", "training", 8)
        for purpose, count in (("training", 3), ("evaluation", 2), ("audit", 1)):
            with pytest.raises(BudgetRefused, match=f"of {purpose}"):
                ledger.release("run-1", 2, "task", purpose, count)
        assert ledger.release("run-1", 2, "task", "training", 2)


def test_the_same_place_with_another_count_is_refused(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
        ledger.release("run-1", 1, "task", "training", 1)
        with pytest.raises(Refused, match="was 1, not 2"):
            ledger.release("run-1", 1, "task", "training", 2)


def test_a_release_without_a_reservation_is_refused(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        for act in (lambda: ledger.release("late", 1, "task", "training", 1), lambda: ledger.settle("late")):
            with pytest.raises(Refused, match="never reserved") as refusal:
                act()
            assert refusal.value.code == "not-enrolled"


@pytest.mark.parametrize("count", [0, -1])
def test_a_release_of_nothing_is_an_error(bench: LedgerBench, count: int) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
        with pytest.raises(ValueError, match="event_count must be >= 1"):
            ledger.release("run-1", 1, "task", "training", count)


def test_settling_gives_back_only_what_did_not_run(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of(steps=60))
        ledger.release("run-1", 1, "task", "training", 20)
        before = ledger.spent()
        ledger.settle("run-1")
        ledger.settle("run-1")
        after = ledger.spent()
        assert after.entries == before.entries + 1
        (line,) = after.runs
        charged = {charge.purpose: charge.event.count for cohort in line.cohorts for charge in cohort.charged}
        assert (line.settled, charged) == (True, {"training": 20, "evaluation": 0})
        assert after.spent < before.spent


def test_a_settled_run_releases_and_reserves_nothing_more(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
        ledger.settle("run-1")
        for act in (
            lambda: ledger.release("run-1", 1, "task", "training", 1),
            lambda: ledger.reserve("run-1", "hash", charges_of()),
        ):
            with pytest.raises(Refused, match="is over") as refusal:
                act()
            assert refusal.value.code == "settled"


def test_a_run_that_never_ran_costs_nothing_once_settled(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
        ledger.settle("run-1")
        assert (ledger.spent().spent, ledger.spent().left) == (0.0, 20.0)


def test_two_charges_of_one_purpose_are_an_error(bench: LedgerBench) -> None:
    with bench.open() as ledger, pytest.raises(ValueError, match="every purpose once"):
        ledger.reserve("run-1", "hash", (*charges_of(), charges_of()[0]))


def test_events_are_stored_exactly(bench: LedgerBench) -> None:
    charges = (Charge("train", "training", Event("gaussian", 1 / 3 + 7, 0.1, 60)),)
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges)
        assert ledger.spent().runs[0].cohorts[0].reserved == charges


@pytest.mark.parametrize("change", [{"delta": 1e-4}, {"site": "va"}])
def test_the_header_is_fixed_for_ever(bench: LedgerBench, change: dict[str, float | str]) -> None:
    bench.open().close()
    with pytest.raises(LedgerBroken, match="for ever"):
        replace(bench, **change).open()  # type: ignore[arg-type]


def test_another_institutions_key_cannot_open_it(bench: LedgerBench) -> None:
    bench.open().close()
    (bench.folder / "identity.pem").unlink()
    with pytest.raises(LedgerBroken, match="not signed by this institution's key"):
        bench.open()


def test_the_lifetime_budget_is_todays_policys(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
        paid = ledger.spent().spent
    with replace(bench, lifetime_epsilon=paid / 2).open() as ledger:
        assert ledger.spent().left == 0.0
        with pytest.raises(BudgetRefused):
            ledger.reserve("run-2", "hash", charges_of(noise=1e4))


def test_the_file_is_for_its_owner_only(bench: LedgerBench) -> None:
    bench.open().close()
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600


def test_the_head_moves_with_every_entry_and_names_the_newest(bench: LedgerBench) -> None:
    heads = []
    with bench.open() as ledger:
        heads.append((ledger.spent().entries, ledger.spent().head))
        ledger.reserve("run-1", "hash", charges_of())
        heads.append((ledger.spent().entries, ledger.spent().head))
        ledger.release("run-1", 1, "task", "training", 1)
        heads.append((ledger.spent().entries, ledger.spent().head))
    assert [number for number, _ in heads] == [1, 2, 3]
    assert len({digest for _, digest in heads}) == 3


@pytest.mark.parametrize(
    "make",
    [lambda path: path.write_bytes(b"no database " * 100), lambda path: path.write_text("site: cleveland\n" * 100)],
)
def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(
    bench: LedgerBench, make: Callable[[Path], object]
) -> None:
    make(bench.path)
    before = bench.path.read_bytes()
    with pytest.raises(LedgerBroken, match="is no ledger"):
        bench.open()
    assert bench.path.read_bytes() == before


@pytest.mark.parametrize("location", ["mysql://host/ledger", "postgresql://host", "sqlite://", "sqlite:///:memory:"])
def test_a_location_that_is_no_database_of_ours_is_refused(bench: LedgerBench, location: str) -> None:
    from client.ledger import Ledger  # noqa: PLC0415

    identity = bench.identity()
    with pytest.raises(ValueError, match="a ledger is a SQLite file"):
        Ledger.open(
            location, site="a", signer=identity.sign, public_key=identity.public_key, delta=1e-3, lifetime_epsilon=1.0
        )


def test_a_sqlite_url_opens_the_same_ledger(bench: LedgerBench) -> None:
    from client.ledger import Ledger  # noqa: PLC0415

    with bench.open() as ledger:
        head = ledger.spent().head
    identity = bench.identity()
    with Ledger.open(
        f"sqlite:///{bench.path}",
        site=bench.site,
        signer=identity.sign,
        public_key=identity.public_key,
        delta=bench.delta,
        lifetime_epsilon=20.0,
    ) as ledger:
        assert ledger.spent().head == head


@pytest.mark.parametrize("refusal", [Refused("noise", "too little"), BudgetRefused("gone"), LedgerBroken("entry 3")])
def test_refusals_cross_process_borders(refusal: Refused) -> None:
    again = pickle.loads(pickle.dumps(refusal))  # noqa: S301
    assert (type(again), again.code, str(again)) == (type(refusal), refusal.code, str(refusal))
