"""What the runs cost: by charge, by cohort, by run, for everyone, and for the subjects who were in the same cohorts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from common.verify.cohorts import Membership
from common.verify.divergence import divergence, epsilon_of
from common.verify.facts import Charge, Header
from common.verify.finding import WHOLE, Finding, shown
from common.verify.story import Run

Curve = tuple[float, ...]
"""A Renyi divergence at each of the header's orders."""


@dataclass(frozen=True)
class ChargeCost:
    """One charge of a run.

    Attributes:
        counted: releases that count: what was released once the run is settled; until then what was reserved, or what
            was released where that is more.
        each: the cost of one release.
    """

    charge: Charge
    released: int
    counted: int
    each: Curve

    def total(self, count: int) -> Curve:
        """Give the cost of so many releases."""
        return tuple(count * rho for rho in self.each) if count else (0.0,) * len(self.each)


@dataclass(frozen=True)
class CohortCost:
    """One cohort of a run; its root is None where it is not known who is in it, so that everyone may be."""

    cohort: str
    root: str | None
    charges: tuple[ChargeCost, ...]

    def counted(self, modality: str | None = None) -> Curve:
        """Add up what counts: all of it, or what reads one modality (or does not say what it reads)."""
        return _sum(cost.total(cost.counted if _reads(cost.charge, modality) else 0) for cost in self.charges)

    def reserved(self) -> Curve:
        """Add up what was reserved."""
        return _sum(cost.total(cost.charge.count) for cost in self.charges)


@dataclass(frozen=True)
class RunCost:
    """One run; whoever pays for it pays for one of its cohorts."""

    run: Run
    cohorts: tuple[CohortCost, ...]

    def counted(self, modality: str | None = None) -> Curve:
        """Give what the run costs the subject who pays most, order by order."""
        return _largest(cohort.counted(modality) for cohort in self.cohorts)

    def reserved(self) -> Curve:
        """Give what its reservation costs the subject who pays most."""
        return _largest(cohort.reserved() for cohort in self.cohorts)

    def is_for_everyone(self) -> bool:
        """Whether it is not known for some cohort who is in it."""
        return any(cohort.root is None for cohort in self.cohorts)

    def paid_by(self, roots: frozenset[str], modality: str | None = None) -> Curve:
        """Give what it costs a subject who is a member of these roots."""
        if self.is_for_everyone():
            return self.counted(modality)
        paid = [cohort.counted(modality) for cohort in self.cohorts if cohort.root in roots]
        return _sum(paid) if paid else (0.0,) * len(self.counted())


@dataclass(frozen=True)
class ParticipationClass:
    """Subjects who are members of the same roots: all of them have spent the same at the filter's order."""

    roots: frozenset[str]
    subjects: int
    rho: float
    epsilon: float


@dataclass(frozen=True)
class Totals:
    """What all runs cost together.

    Attributes:
        rho: the sum at the filter's order over the runs' costliest cohorts.
        needed: that, as epsilon: what the filter decides by.
        spent: the smallest epsilon of any order, as if all runs had been planned beforehand.
        spent_order: the order that gives it.
        everyone: rho of a subject who is in no cohort: what reservations without cohorts cost.
        classes: the participation classes, costliest first.
    """

    header: Header
    runs: tuple[RunCost, ...]
    rho: float
    needed: float
    spent: float
    spent_order: float
    everyone: float
    classes: tuple[ParticipationClass, ...]

    @property
    def at(self) -> int:
        """The place of the filter's order among the orders."""
        return self.header.orders.index(self.header.order)

    def epsilon(self, rho: float) -> float:
        """Turn a cost at the filter's order into epsilon."""
        return epsilon_of(self.header.order, rho, self.header.delta)

    def largest(self) -> float:
        """The epsilon of the subject who has spent most."""
        return max([self.epsilon(self.everyone), *(each.epsilon for each in self.classes)])


def add_up(header: Header, runs: Iterable[Run], membership: Membership) -> Totals:
    """Add everything up."""
    costs = tuple(
        _run_cost(run, membership, header.orders) for run in runs if run.reservation and run.reservation.charges
    )
    curve = _sum([(0.0,) * len(header.orders), *(cost.counted() for cost in costs)])
    at = header.orders.index(header.order)
    spent, order = best_epsilon(header, curve)
    everyone = math.fsum(cost.counted()[at] for cost in costs if cost.is_for_everyone())
    classes = _classes(header, costs, membership, everyone)
    needed = epsilon_of(header.order, curve[at], header.delta)
    return Totals(header, costs, curve[at], needed, spent, order, everyone, classes)


def best_epsilon(header: Header, curve: Curve) -> tuple[float, float]:
    """Give the smallest epsilon of any order, at least 0, and that order; for what was planned beforehand."""
    pairs = zip(header.orders, curve, strict=True)
    epsilon, order = min((epsilon_of(order, rho, header.delta), order) for order, rho in pairs)
    return max(0.0, epsilon), order


def check_budget(totals: Totals, budget: float) -> tuple[list[Finding], list[Finding]]:
    """Hold the filter's total against a lifetime epsilon; name the entry that went beyond it first.

    Returns:
        The problem, if the total is beyond the budget now; a note, if it was beyond it only until a run was settled.
    """
    at, steps = totals.at, []
    for cost in totals.runs:
        reserved = cost.reserved()[at]
        steps.append((cost.run.reserved_at, cost.run, reserved))
        if cost.run.settled_at is not None:
            steps.append((cost.run.settled_at, cost.run, cost.counted()[at] - reserved))
    total, first = 0.0, None
    for number, run, change in sorted(steps, key=lambda step: step[0]):
        total += change
        if first is None and totals.epsilon(max(0.0, total)) > budget * (1 + 1e-9):
            first = number, run, total
    if first is None:
        return [], []
    number, run, total = first
    text = f"with run {shown(run.name)} the filter needs {totals.epsilon(total):.6g}, and {budget:g} is the budget"
    if totals.needed > budget * (1 + 1e-9):
        return [Finding(number, f"{text}; by now it needs {totals.needed:.6g}")], []
    return [], [Finding(number, f"{text} of today; what was given back since brought it down to {totals.needed:.6g}")]


def check_subjects(totals: Totals, budget: float) -> tuple[list[Finding], list[Finding]]:
    """Hold every subject's own total against a lifetime epsilon, where runs are taken without whoever is spent.

    Returns:
        A problem, if somebody is beyond the budget; no notes.
    """
    largest = totals.largest()
    if largest <= budget * (1 + 1e-9):
        return [], []
    return [Finding(WHOLE, f"a subject has spent {largest:.6g}, and {budget:g} is the budget of each")], []


def _run_cost(run: Run, membership: Membership, orders: Curve) -> RunCost:
    reservation = run.reservation
    if reservation is None:
        raise ValueError("a run whose reservation cannot be read has no cost")
    roots = reservation.roots or {}
    cohorts = []
    for name in dict.fromkeys(charge.cohort for charge in reservation.charges):
        charges = [charge for charge in reservation.charges if charge.cohort == name]
        root = roots.get(name)
        costs = tuple(_charge_cost(run, charge, orders) for charge in charges)
        cohorts.append(CohortCost(name, root if root in membership.cohorts else None, costs))
    return RunCost(run, tuple(cohorts))


def _charge_cost(run: Run, charge: Charge, orders: Curve) -> ChargeCost:
    released = run.released[charge.purpose]
    counted = max(charge.count, released) if run.settled_at is None else released
    return ChargeCost(charge, released, counted, _curve(*_parameters(charge), orders))


def _parameters(charge: Charge) -> tuple[str, float, float]:
    return charge.mechanism, charge.noise_multiplier, charge.sampling_rate


@lru_cache(maxsize=4096)
def _curve(mechanism: str, noise_multiplier: float, sampling_rate: float, orders: Curve) -> Curve:
    return tuple(divergence(mechanism, noise_multiplier, sampling_rate, order) for order in orders)


def _classes(
    header: Header, costs: Sequence[RunCost], membership: Membership, everyone: float
) -> tuple[ParticipationClass, ...]:
    at = header.orders.index(header.order)
    by_root = {
        cohort.root: cohort.counted()[at]
        for cost in costs
        if not cost.is_for_everyone()
        for cohort in cost.cohorts
        if cohort.root is not None
    }
    found = []
    for roots, subjects in Counter(membership.roots_of.values()).items():
        rho = math.fsum([everyone, *(by_root.get(root, 0.0) for root in roots)])
        found.append(ParticipationClass(roots, subjects, rho, epsilon_of(header.order, rho, header.delta)))
    return tuple(sorted(found, key=lambda each: (-each.rho, sorted(each.roots))))


def _reads(charge: Charge, modality: str | None) -> bool:
    """Whether a charge reads a modality; one that names none may read any."""
    return modality is None or not charge.modalities or modality in charge.modalities


def _sum(curves: Iterable[Curve]) -> Curve:
    return tuple(math.fsum(costs) for costs in zip(*curves, strict=True))


def _largest(curves: Iterable[Curve]) -> Curve:
    return tuple(max(costs) for costs in zip(*curves, strict=True))
