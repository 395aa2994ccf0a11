"""What a ledger's entries add up to: exact events by run and cohort, their Renyi cost, and what is left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from client.ledger_schema import Entry, LedgerBroken, charge_from_facts
from common.privacy.events import Charge
from common.privacy.renyi import ORDERS, epsilon_at, renyi, renyi_epsilon


@dataclass(frozen=True)
class RunAccount:
    """One run: what it reserved, what it released so far, and whether it is over.

    Attributes:
        when: UTC time of the reservation.
        released: number of events by purpose.
        releases: number of events by (round, stage, purpose).
    """

    run: str
    plan_hash: str
    when: str
    reserved: tuple[Charge, ...]
    released: dict[str, int] = field(default_factory=dict)
    releases: dict[tuple[int, str, str], int] = field(default_factory=dict)
    settled: bool = False

    def charged(self) -> tuple[Charge, ...]:
        """What counts: the whole reservation until it is settled, then what was released."""
        if not self.settled:
            return self.reserved
        counts = ((charge, self.released.get(charge.purpose, 0)) for charge in self.reserved)
        return tuple(replace(charge, event=replace(charge.event, count=count)) for charge, count in counts)

    def costs(self) -> tuple[float, ...]:
        """Renyi cost of the run to the subject who pays most, by order."""
        return worst_cohort(self.charged())


@dataclass(frozen=True)
class CohortLine:
    """One cohort of one run; the epsilons are Renyi figures at the ledger's delta, of this cohort of this run alone."""

    cohort: str
    reserved: tuple[Charge, ...]
    charged: tuple[Charge, ...]
    reserved_epsilon: float
    charged_epsilon: float


@dataclass(frozen=True)
class RunLine:
    """One run of a ledger's summary."""

    run: str
    plan_hash: str
    when: str
    settled: bool
    cohorts: tuple[CohortLine, ...]


@dataclass(frozen=True)
class LedgerSummary:
    """Where an institution stands.

    Attributes:
        order: the Renyi order that the filter works at.
        spent: epsilon at `delta` of all that is charged, for the subject who pays most, by Renyi composition, as if it
            had been planned beforehand. What is promised however runs depend on each other is lifetime_epsilon.
        left: lifetime_epsilon - spent, at least 0. A guide: the filter decides, and costs do not add up in epsilon.
        head: digest of the newest entry, in hex.
    """

    site: str
    lifetime_epsilon: float
    delta: float
    order: float
    spent: float
    left: float
    entries: int
    head: str
    public_key: str
    runs: tuple[RunLine, ...]


def worst_cohort(charges: Iterable[Charge]) -> tuple[float, ...]:
    """Add up each cohort's Renyi cost and take the largest, order by order.

    Cohorts of one run are disjoint: a subject pays for one of them. Across runs nobody knows which, so each run counts
    with its largest.
    """
    by_cohort: dict[str, list[Charge]] = {}
    for charge in charges:
        by_cohort.setdefault(charge.cohort, []).append(charge)
    curves = [renyi(charge.event for charge in charged) for charged in by_cohort.values()]
    return tuple(max(costs) for costs in zip(*curves, strict=True)) if curves else (0.0,) * len(ORDERS)


def run_accounts(entries: Sequence[Entry]) -> dict[str, RunAccount]:
    """Read the entries behind the header, oldest run first.

    Raises:
        LedgerBroken: an entry contradicts those before it.
    """
    accounts: dict[str, RunAccount] = {}
    for entry in entries[1:]:
        facts, account = entry.facts(), accounts.get(entry.run)
        if (account is None) != (entry.kind == "reserve"):
            raise LedgerBroken(f"entry {entry.seq}: {entry.kind} of run {entry.run} in the wrong place")
        accounts[entry.run] = _opened(entry, facts) if account is None else _continued(account, entry, facts)
    return accounts


def _opened(entry: Entry, facts: dict[str, object]) -> RunAccount:
    charges = facts["charges"]
    if not isinstance(charges, list):
        raise LedgerBroken(f"entry {entry.seq}: its charges are no list")
    reserved = tuple(charge_from_facts(charge) for charge in charges)
    return RunAccount(entry.run, str(facts["plan"]), str(facts["when"]), reserved)


def _continued(account: RunAccount, entry: Entry, facts: dict[str, object]) -> RunAccount:
    if account.settled:
        raise LedgerBroken(f"entry {entry.seq}: {entry.kind} of run {entry.run}, which was settled")
    if entry.kind == "settle":
        return replace(account, settled=True)
    count, purpose = facts["count"], str(facts["purpose"])
    if entry.kind != "release" or not isinstance(count, int):
        raise LedgerBroken(f"entry {entry.seq}: {entry.kind} cannot be read")
    key = (int(str(facts["round"])), str(facts["stage"]), purpose)
    # These dictionaries were made by run_accounts a moment ago; nobody else has seen them.
    account.released[purpose] = account.released.get(purpose, 0) + count
    account.releases[key] = count
    return account


@dataclass(frozen=True)
class Standing:
    """The view of all runs together.

    Attributes:
        needed: the lifetime epsilon that the filter needs, at its order, to admit all runs; the decision.
        spent: the same by whichever order gives the least; the figure for readers.
    """

    needed: float
    spent: float


def standing(accounts: Sequence[RunAccount], *, order: float, delta: float) -> Standing:
    """Add all runs up, at the filter's order and at all others.

    Source: Feldman and Zrnic 2020, arXiv:2008.11193; common/privacy/renyi.py says why there is one order.
    """
    if not accounts:
        return Standing(0.0, 0.0)
    totals = tuple(math.fsum(costs) for costs in zip(*(account.costs() for account in accounts), strict=True))
    total = totals[ORDERS.index(order)]
    needed = epsilon_at(order, total, delta) if total else 0.0
    return Standing(needed, renyi_epsilon(totals, delta))


def run_lines(accounts: Iterable[RunAccount], delta: float) -> tuple[RunLine, ...]:
    """Lay the accounts out for a reader."""
    return tuple(
        RunLine(account.run, account.plan_hash, account.when, account.settled, _cohort_lines(account, delta))
        for account in accounts
    )


def _cohort_lines(account: RunAccount, delta: float) -> tuple[CohortLine, ...]:
    lines = []
    for cohort in dict.fromkeys(charge.cohort for charge in account.reserved):
        reserved = tuple(charge for charge in account.reserved if charge.cohort == cohort)
        charged = tuple(charge for charge in account.charged() if charge.cohort == cohort)
        epsilons = (renyi_epsilon(renyi(charge.event for charge in part), delta) for part in (reserved, charged))
        lines.append(CohortLine(cohort, reserved, charged, *epsilons))
    return tuple(lines)
