"""What single subjects have spent: participation classes, and who has no budget left for another run.

Subjects who are members of exactly the same cohorts have spent the same, and form one class. A class' account is a sum
of Renyi costs at the ledger's one order, so that leaving a subject out as soon as a run would take its own account past
the budget is an individual privacy filter (Feldman and Zrnic 2020, arXiv:2008.11193): whether a subject takes part
depends on that subject's own history only, and nothing that others can see says who does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client.cohorts import Cohort
from client.ledger_schema import LedgerBroken
from client.ledger_store import Pen
from common.privacy.events import Charge
from common.privacy.renyi import ORDERS, epsilon_at, renyi, renyi_epsilon

if TYPE_CHECKING:
    from client.ledger_account import RunAccount

Costs = tuple[float, ...]
_NOTHING: Costs = (0.0,) * len(ORDERS)


@dataclass(frozen=True)
class SubjectClass:
    """The subjects who took part in exactly the same cohorts.

    Attributes:
        subjects: how many they are.
        runs: the runs that they took part in.
        needed: their lifetime epsilon at the filter's order: what decides.
        spent: the same by whichever order gives the least, as if it had been planned beforehand.
        by_modality: `spent` over the charges that read a modality, by modality.
    """

    subjects: int
    runs: tuple[str, ...]
    needed: float
    spent: float
    by_modality: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SubjectSummary:
    """All participation classes, the one that spent most first. It depends on who is in the folder."""

    classes: tuple[SubjectClass, ...] = ()

    @property
    def largest(self) -> float:
        """Epsilon of the subject who spent most."""
        return max((one.spent for one in self.classes), default=0.0)


@dataclass(frozen=True)
class Terms:
    """Who takes part in a run, and what else its reservation says.

    Attributes:
        cohorts: the members by cohort, frozen from here on.
        pseudonyms: what stands for the key that made their pseudonyms.
        bundle: hash of the code that asks.
        leave_out: whether subjects without budget are left out, instead of the run being refused.
    """

    cohorts: Mapping[str, Cohort]
    pseudonyms: str
    bundle: str = ""
    leave_out: bool = False


@dataclass(frozen=True)
class Accounts:
    """All runs, and who was a member of which root."""

    runs: Sequence[RunAccount]
    members: Mapping[str, frozenset[bytes]]
    order: float
    delta: float

    def classes(self) -> dict[frozenset[str], frozenset[bytes]]:
        """The subjects of each participation class, by the roots that they are members of."""
        roots: dict[bytes, list[str]] = {}
        for root, members in self.members.items():
            for member in members:
                roots.setdefault(member, []).append(root)
        found: dict[frozenset[str], set[bytes]] = {}
        for member, own in roots.items():
            found.setdefault(frozenset(own), set()).add(member)
        return {own: frozenset(members) for own, members in found.items()}

    def costs(self, roots: frozenset[str], modality: str | None = None) -> Costs:
        """Renyi cost by order of a member of these roots, of all charges or of those that read a modality."""
        return added(worst_cohort(_paid(run, roots, modality)) for run in self.runs)

    def summary(self, roots: frozenset[str], subjects: int) -> SubjectClass:
        """Lay one class out."""
        costs, runs = self.costs(roots), [run for run in self.runs if _paid(run, roots, None)]
        modalities = sorted({name for run in runs for charge in _paid(run, roots, None) for name in charge.modalities})
        by_modality = {name: renyi_epsilon(self.costs(roots, name), self.delta) for name in modalities}
        spent = renyi_epsilon(costs, self.delta)
        return SubjectClass(subjects, tuple(run.run for run in runs), self.needed(costs), spent, by_modality)

    def needed(self, costs: Costs) -> float:
        """The lifetime epsilon that the filter needs, at its order, to admit a total."""
        total = costs[ORDERS.index(self.order)]
        return epsilon_at(self.order, total, self.delta) if total else 0.0

    def without_budget(self, cohort: Cohort, charges: Iterable[Charge], lifetime_epsilon: float) -> frozenset[bytes]:
        """The members of a new run's cohort whose own account does not hold these charges."""
        asked, wanted = renyi(charge.event for charge in charges), frozenset(cohort.members)
        known = self.classes()
        strangers = wanted.difference(*known.values()) if known else wanted
        gone: set[bytes] = set()
        for roots, members in (*known.items(), (frozenset[str](), strangers)):
            after = self.needed(added((self.costs(roots), asked)))
            if not after <= lifetime_epsilon:
                gone |= members & wanted
        return frozenset(gone)


def summarise(accounts: Accounts) -> SubjectSummary:
    """Lay all classes out, the one that spent most first."""
    classes = (accounts.summary(roots, len(members)) for roots, members in accounts.classes().items())
    return SubjectSummary(tuple(sorted(classes, key=lambda one: (-one.spent, one.runs))))


def freeze(
    pen: Pen,
    terms: Terms,
    charges: Sequence[Charge],
    earlier: Iterable[RunAccount],
    without_budget: Callable[[Cohort, Sequence[Charge]], frozenset[bytes]],
) -> dict[str, object]:
    """Write a run's cohorts down, without whom `without_budget` names; what the reservation says of them.

    Raises:
        LedgerBroken: the pseudonyms were made with another key than those of earlier runs.
    """
    check_key(earlier, terms.pseudonyms)
    roots = {}
    for name, cohort in sorted(terms.cohorts.items()):
        gone = without_budget(cohort, [charge for charge in charges if charge.cohort == name])
        roots[name] = pen.keep(cohort.without(gone))
    return {"cohorts": roots, "pseudonyms": terms.pseudonyms, "bundle": terms.bundle}


def check_key(runs: Iterable[RunAccount], pseudonyms: str) -> None:
    """Refuse another pseudonym key than that of the runs that are here.

    Raises:
        LedgerBroken: the key was lost or replaced.
    """
    if {run.pseudonyms for run in runs} - {"", pseudonyms}:
        raise LedgerBroken("the pseudonym key is not this ledger's: restore it; with a new one all would start at zero")


def worst_cohort(charges: Iterable[Charge]) -> Costs:
    """Add up each cohort's Renyi cost and take the largest, order by order: what the subject who pays most pays.

    Cohorts of one run are disjoint: a subject pays for one of them.
    """
    by_cohort: dict[str, list[Charge]] = {}
    for charge in charges:
        by_cohort.setdefault(charge.cohort, []).append(charge)
    curves = [renyi(charge.event for charge in charged) for charged in by_cohort.values()]
    return tuple(max(costs) for costs in zip(*curves, strict=True)) if curves else _NOTHING


def added(costs: Iterable[Costs]) -> Costs:
    """Add Renyi costs up, order by order."""
    columns = list(zip(*costs, strict=True))
    return tuple(math.fsum(column) for column in columns) if columns else _NOTHING


def _paid(run: RunAccount, roots: frozenset[str], modality: str | None) -> list[Charge]:
    """The charges of a run that a member of these roots may have paid; all of them where nobody knows who took part."""
    charges = run.charged()
    if modality is not None:
        charges = tuple(charge for charge in charges if not charge.modalities or modality in charge.modalities)
    if run.cohorts is None:
        return list(charges)
    own = {cohort for cohort, root in run.cohorts.items() if root in roots}
    return [charge for charge in charges if charge.cohort in own]
