"""Any sequence of requests, against a naive twin that adds up by hand: what is allowed never exceeds the budget."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import Ledger
from client.policy import Refused
from common.privacy.plan import Charge, Event
from common.privacy.renyi import ORDERS, renyi, renyi_bound
from tests.ledger_bench import DELTA, LedgerBench

EPSILON = 10.0
INDEX = ORDERS.index(2.5)  # of unsampled Gaussians, more fit into (10, 1e-3) at this order than at any other
runs = st.sampled_from(["a", "b", "c", "d"])
charges = st.builds(
    lambda noise, rate, steps, table: (
        Charge("train", "training", Event("gaussian", noise, rate, steps)),
        Charge("test", "evaluation", Event("discrete_gaussian", table, 1.0, 1)),
    ),
    st.sampled_from([1.5, 3.0, 6.0, 20.0]),
    st.sampled_from([1.0, 0.3, 0.02]),
    st.integers(1, 40),
    st.sampled_from([0.7, 2.0, 8.0]),
)
requests = st.one_of(
    st.tuples(st.just("reserve"), runs, charges),
    st.tuples(st.just("release"), runs, st.tuples(st.integers(1, 4), st.integers(1, 15))),
    st.tuples(st.just("settle"), runs, st.none()),
)


@dataclass
class Twin:
    """What a ledger must do, kept in dictionaries."""

    reserved: dict[str, tuple[Charge, ...]] = field(default_factory=dict)
    released: dict[tuple[str, int], int] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def steps(self, run: str) -> int:
        return sum(count for (of, _), count in self.released.items() if of == run)

    def cost(self, index: int) -> float:
        return sum(self.run_cost(run, index) for run in self.reserved)

    def run_cost(self, run: str, index: int) -> float:
        training, table = (charge.event for charge in self.reserved[run])
        if run in self.settled:
            training = Event(training.mechanism, training.noise_multiplier, training.sampling_rate, self.steps(run))
            table = Event(table.mechanism, table.noise_multiplier, 1.0, 0)
        return max(renyi([training])[index], renyi([table])[index])

    def reserve(self, run: str, asked: tuple[Charge, ...]) -> bool:
        if run in self.reserved:
            return self.reserved[run] == asked and run not in self.settled
        self.reserved[run] = asked
        if self.cost(INDEX) <= renyi_bound(ORDERS[INDEX], EPSILON, DELTA):
            return True
        del self.reserved[run]
        return False

    def release(self, run: str, at: tuple[int, int]) -> bool:
        place, count = (run, at[0]), at[1]
        if run not in self.reserved or run in self.settled:
            return False
        if place in self.released:
            return self.released[place] == count
        if self.steps(run) + count > self.reserved[run][0].event.count:
            return False
        self.released[place] = count
        return True

    def settle(self, run: str) -> bool:
        if run in self.reserved:
            self.settled.add(run)
        return run in self.reserved


def ask(ledger: Ledger, verb: str, run: str, detail: object) -> bool:
    try:
        if verb == "reserve":
            ledger.reserve(run, "hash", detail)  # type: ignore[arg-type]
        elif verb == "settle":
            ledger.settle(run)
        else:
            ledger.release(run, detail[0], "task", "training", detail[1])  # type: ignore[index]
    except Refused:
        return False
    return True


def answers(twin: Twin, asked: list[tuple[str, str, object]]) -> Iterator[tuple[bool, bool]]:
    with tempfile.TemporaryDirectory() as folder:
        bench = LedgerBench(Path(folder), lifetime_epsilon=EPSILON)
        with bench.open() as ledger:
            for verb, run, detail in asked:
                arguments = () if verb == "settle" else (detail,)
                yield ask(ledger, verb, run, detail), getattr(twin, verb)(run, *arguments)
            ledger.verify()
            summary = ledger.spent()
        assert [line.run for line in summary.runs] == list(twin.reserved)
        assert summary.order == ORDERS[INDEX]
        assert twin.cost(INDEX) <= max(0.0, renyi_bound(summary.order, EPSILON, DELTA)) + 1e-9
        assert summary.spent <= EPSILON + 1e-9


@settings(max_examples=25)
@given(st.lists(requests, max_size=12))
def test_the_ledger_answers_as_its_naive_twin_and_never_exceeds_the_budget(
    asked: list[tuple[str, str, object]],
) -> None:
    for given_answer, expected in answers(Twin(), asked):
        assert given_answer == expected
