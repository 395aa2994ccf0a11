"""What a ledger's entries add up to: exact events by run and cohort, their Renyi cost, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from client.ledger_schema import Entry, LedgerBroken, charge_from_facts
from client.ledger_subjects import SubjectSummary, added, worst_cohort
from client.policy import Refused
from common.privacy.events import Charge
from common.privacy.renyi import ORDERS, epsilon_at, renyi, renyi_epsilon


class BudgetRefused(Refused):
    """The institution's lifetime budget does not hold what was asked for."""

    def __init__(self, reason: str) -> None:
        """Keep the reason under the code `budget`."""
        super().__init__("budget", reason)
        self.args = (reason,)  # so that it can be pickled


@dataclass(frozen=True)
class RunAccount:
    """One run: what it reserved, what it released so far, and whether it is over.

    Attributes:
        when: UTC time of the reservation.
        cohorts: Merkle root by cohort; None: nobody knows who is in them, so every subject pays (version 2).
        pseudonyms: what stands for the key that the cohorts' pseudonyms were made with.
        released: number of events by purpose.
        releases: number of events by (round, stage, purpose).
        entries: numbers of the run's entries.
    """

    run: str
    plan_hash: str
    when: str
    reserved: tuple[Charge, ...]
    cohorts: Mapping[str, str] | None = None
    pseudonyms: str = ""
    released: dict[str, int] = field(default_factory=dict)
    releases: dict[tuple[int, str, str], int] = field(default_factory=dict)
    entries: list[int] = field(default_factory=list)
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
    """One run of a ledger's summary, with the numbers of its entries.

    `spent_after` is the ledger's `spent` if this run and those before it were all, each with what it costs today.
    """

    run: str
    plan_hash: str
    when: str
    settled: bool
    cohorts: tuple[CohortLine, ...]
    entries: tuple[int, ...] = ()
    spent_after: float = 0.0


@dataclass(frozen=True)
class LedgerSummary:
    """Where an institution stands.

    Attributes:
        order: the Renyi order that the filter works at.
        needed: the lifetime epsilon that the filter needs by now, at its order: what decides.
        spent: epsilon at `delta` of all that is charged, for the subject who pays most, by Renyi composition, as if it
            had been planned beforehand. What is promised however runs depend on each other is lifetime_epsilon.
        left: lifetime_epsilon - spent, at least 0. A guide: the filter decides, and costs do not add up in epsilon.
        head: digest of the newest entry, in hex.
        runs: one line each, with the numbers of the entries that it comes from.
        by_modality: `spent` over the charges that read a modality, by modality.
        subjects: what the subjects themselves have spent; it depends on who is in the folder, so it stays at the site.
    """

    site: str
    lifetime_epsilon: float
    delta: float
    order: float
    needed: float
    spent: float
    left: float
    entries: int
    head: str
    public_key: str
    runs: tuple[RunLine, ...]
    by_modality: Mapping[str, float]
    subjects: SubjectSummary


def run_accounts(entries: Sequence[Entry], known: Mapping[str, RunAccount] | None = None) -> dict[str, RunAccount]:
    """Read entries behind the header, oldest run first, on top of the accounts of those before them.

    Raises:
        LedgerBroken: an entry contradicts those before it.
    """
    accounts, own = dict(known or {}), set[str]()
    for entry in entries:
        if entry.kind in ("header", "migrate"):
            _check_headline(entry)
            continue
        facts, account = entry.facts(), accounts.get(entry.run)
        if (account is None) != (entry.kind == "reserve"):
            raise LedgerBroken(f"entry {entry.seq}: {entry.kind} of run {entry.run} in the wrong place")
        if account is None:
            account = _opened(entry, facts)
        else:
            if entry.run not in own:  # whoever else has seen this account keeps it as it was
                account = _copied(account)
            account = _continued(account, entry, facts)
        own.add(entry.run)
        account.entries.append(entry.seq)
        accounts[entry.run] = account
    return accounts


def _check_headline(entry: Entry) -> None:
    if (entry.kind == "header") != (entry.seq == 0) or entry.run:
        raise LedgerBroken(f"entry {entry.seq}: {entry.kind} in the wrong place")


def _opened(entry: Entry, facts: dict[str, object]) -> RunAccount:
    charges, cohorts = facts["charges"], facts.get("cohorts")
    if not isinstance(charges, list) or not isinstance(cohorts, dict | None):
        raise LedgerBroken(f"entry {entry.seq}: its charges or cohorts cannot be read")
    reserved = tuple(charge_from_facts(charge) for charge in charges)
    if cohorts is not None and {charge.cohort for charge in reserved} - set(cohorts):
        raise LedgerBroken(f"entry {entry.seq}: it charges a cohort that it does not name")
    pseudonyms = str(facts.get("pseudonyms", ""))
    return RunAccount(entry.run, str(facts["plan"]), str(facts["when"]), reserved, cohorts, pseudonyms)


def _copied(account: RunAccount) -> RunAccount:
    return replace(
        account,
        released=dict(account.released),
        releases=dict(account.releases),
        entries=list(account.entries),
    )


def _continued(account: RunAccount, entry: Entry, facts: dict[str, object]) -> RunAccount:
    if account.settled:
        raise LedgerBroken(f"entry {entry.seq}: {entry.kind} of run {entry.run}, which was settled")
    if entry.kind == "settle":
        return replace(account, settled=True)
    count, purpose = facts["count"], str(facts["purpose"])
    if entry.kind != "release" or not isinstance(count, int):
        raise LedgerBroken(f"entry {entry.seq}: {entry.kind} cannot be read")
    key = (int(str(facts["round"])), str(facts["stage"]), purpose)
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
    totals = added(account.costs() for account in accounts)
    total = totals[ORDERS.index(order)]
    needed = epsilon_at(order, total, delta) if total else 0.0
    return Standing(needed, renyi_epsilon(totals, delta))


def run_lines(accounts: Iterable[RunAccount], delta: float) -> tuple[RunLine, ...]:
    """Lay the accounts out for a reader."""
    found, total = [], added(())
    for account in accounts:
        total = added((total, account.costs()))
        cohorts, entries = _cohort_lines(account, delta), tuple(account.entries)
        after = renyi_epsilon(total, delta)
        found.append(RunLine(account.run, account.plan_hash, account.when, account.settled, cohorts, entries, after))
    return tuple(found)


def by_modality(accounts: Sequence[RunAccount], delta: float) -> dict[str, float]:
    """Epsilon of all charges that read a modality, by modality, for whoever may have paid all of them."""
    names = sorted({name for account in accounts for charge in account.reserved for name in charge.modalities})
    return {
        name: renyi_epsilon(
            added(
                worst_cohort(
                    charge for charge in account.charged() if not charge.modalities or name in charge.modalities
                )
                for account in accounts
            ),
            delta,
        )
        for name in names
    }


def _cohort_lines(account: RunAccount, delta: float) -> tuple[CohortLine, ...]:
    lines = []
    for cohort in dict.fromkeys(charge.cohort for charge in account.reserved):
        reserved = tuple(charge for charge in account.reserved if charge.cohort == cohort)
        charged = tuple(charge for charge in account.charged() if charge.cohort == cohort)
        epsilons = (renyi_epsilon(renyi(charge.event for charge in part), delta) for part in (reserved, charged))
        lines.append(CohortLine(cohort, reserved, charged, *epsilons))
    return tuple(lines)


def check_same(account: RunAccount, plan_hash: str, charges: Sequence[Charge]) -> None:
    """Refuse to reserve a run again that is over, or that was reserved under another plan."""
    if account.plan_hash != plan_hash or _bare(account, account.reserved) != _bare(account, charges):
        raise Refused("replay", f"run {account.run} was reserved under another plan")
    if account.settled:
        raise Refused("settled", f"run {account.run} is over")


def check_budget(
    site: str, accounts: Sequence[RunAccount], lifetime_epsilon: float, *, order: float, delta: float
) -> None:
    """Refuse the last of these runs where the lifetime budget does not hold all of them."""
    after = standing(accounts, order=order, delta=delta)
    if not after.needed <= lifetime_epsilon:  # what cannot be compared is refused too
        before = standing(accounts[:-1], order=order, delta=delta)
        raise BudgetRefused(
            f"{site}: run {accounts[-1].run} needs a lifetime epsilon of {after.needed:.3g} at delta {delta:g};"
            f" {lifetime_epsilon:g} is allowed (lifetime_epsilon), {before.spent:.3g} is spent"
        )


def _bare(account: RunAccount, charges: Sequence[Charge]) -> tuple[Charge, ...]:
    """Charges as the account's version writes them: version 2 did not say what they read and move."""
    if account.cohorts is not None:
        return tuple(charges)
    return tuple(replace(charge, modalities=(), blocks=()) for charge in charges)


def known_account(accounts: Mapping[str, RunAccount], run: str) -> RunAccount:
    """Find a run's account; refuse a run that was never reserved."""
    if run not in accounts:
        raise Refused("not-enrolled", f"run {run} was never reserved here")
    return accounts[run]


def check_reserved(account: RunAccount, purpose: str, event_count: int) -> None:
    """Refuse to release what was not reserved."""
    if account.settled:
        raise Refused("settled", f"run {account.run} is over")
    reserved = sum(charge.event.count for charge in account.reserved if charge.purpose == purpose)
    released = account.released.get(purpose, 0)
    if released + event_count > reserved:
        raise BudgetRefused(
            f"run {account.run} reserved {reserved} events of {purpose}, released {released}, asks for {event_count}"
        )
