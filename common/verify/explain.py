"""One number followed back to its entries: the figures of a run, and what one subject has spent."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from common.verify.finding import shown, shown_entries
from common.verify.read import LedgerUnreadable
from common.verify.show import add, table
from common.verify.subject import SubjectSpend
from common.verify.totals import CohortCost, RunCost, Totals, best_epsilon
from common.verify.verdict import Verdict


def explain_run(console: Console, verdict: Verdict, totals: Totals, name: str) -> None:
    """Print every entry of a run, what each charge costs, and how that becomes the figures of a report.

    Raises:
        LedgerUnreadable: the ledger has no such run.
    """
    costs = [cost for cost in totals.runs if cost.run.name == name]
    if not costs:
        known = ", ".join(shown(cost.run.name) for cost in totals.runs[-10:]) or "none"
        raise LedgerUnreadable(f"--explain {shown(name)}: the ledger has no such run; its newest ones are {known}")
    cost = costs[0]
    _show_entries(console, verdict, cost)
    for cohort in cost.cohorts:
        _show_cohort(console, cohort, totals, is_settled=cost.run.settled_at is not None)
    rho = cost.counted()[totals.at]
    parts = [f"{cohort.counted()[totals.at]:.9f} ({shown(cohort.cohort)})" for cohort in cost.cohorts]
    text = f"The run's part of the filter's sum is that of its costliest cohort: the largest of {', '.join(parts)}"
    best, order = best_epsilon(totals.header, cost.counted())
    alone = f"Of the run alone, epsilon at this order is {totals.epsilon(rho):.6f}; the least is {best:.6f}"
    console.print(Text(f"{text} = {rho:.9f}. {alone} (order {order:g})."))


def show_subject(console: Console, spend: SubjectSpend, totals: Totals) -> None:
    """Print what a subject pays, run by run, and whether the Merkle paths prove that it does."""
    of = "" if spend.modality is None else f", by what reads {shown(spend.modality)}"
    columns = ("run", "entries", "cohort", "path to its root", "rho")
    grid = table(f"Subject {spend.pseudonym[:16]}... at order {totals.header.order:g}{of}", columns)
    for part in spend.parts:
        steps = "1 hash" if len(part.path) == 1 else f"{len(part.path)} hashes"
        proof = f"{steps}: {'leads there' if part.is_member else 'DOES NOT LEAD THERE'}"
        cohort, proof = ("everyone", "none: no cohorts") if part.cohort is None else (shown(part.cohort), proof)
        entries = shown_entries(part.cost.run.entries())
        add(grid, (shown(part.cost.run.name), entries, cohort, proof, f"{part.rho:.9f}"))
    grid.add_section()
    add(grid, ("total", "", "", "", f"{spend.rho:.9f}"))
    console.print(grid)
    console.print(Text(f"epsilon = {spend.epsilon:.6f} at delta = {totals.header.delta:g}", style="bold"))
    for name, epsilon in spend.by_modality.items():
        console.print(Text(f"  of it, by what reads {shown(name)}: {epsilon:.6f}"))
    if not any(part.cohort for part in spend.parts):
        console.print(Text("This pseudonym is in no cohort that counts here: it pays what everyone pays."))


def _show_entries(console: Console, verdict: Verdict, cost: RunCost) -> None:
    grid = table(f"Entries of run {shown(cost.run.name)}", ("entry", "kind", "says", "digest"))
    numbers = set(cost.run.entries())
    for entry in verdict.entries:
        if entry.seq not in numbers or entry.run != cost.run.name:
            continue
        release = cost.run.releases.get(entry.seq)
        says = ""
        if release is not None:
            says = f"{release.count} of {shown(release.purpose)}, round {release.round}, {shown(release.stage)}"
        elif entry.seq == cost.run.reserved_at:
            charges = [line.charge for cohort in cost.cohorts for line in cohort.charges]
            says = ", ".join(f"{charge.count} of {shown(charge.purpose)}" for charge in charges)
        add(grid, (str(entry.seq), shown(entry.kind), says, f"{shown(entry.digest[:16])}..."))
    console.print(grid)


def _show_cohort(console: Console, cohort: CohortCost, totals: Totals, *, is_settled: bool) -> None:
    columns = ("purpose", "mechanism", "reserved", "released", "counts", "rho of one", "rho")
    order = totals.header.order
    grid = table(f"Cohort {shown(cohort.cohort)}, rho at the filter's order {order:g}", columns)
    for line in cohort.charges:
        charge = line.charge
        noise = f"{charge.mechanism}, noise {charge.noise_multiplier:g}, rate {charge.sampling_rate:g}"
        counts = (str(charge.count), str(line.released), str(line.counted))
        rhos = (f"{line.each[totals.at]:.12g}", f"{line.total(line.counted)[totals.at]:.9f}")
        add(grid, (shown(charge.purpose), noise, *counts, *rhos))
    grid.add_section()
    add(grid, ("together", "", "", "", "", "", f"{cohort.counted()[totals.at]:.9f}"))
    console.print(grid)
    (reserved, of_reserved), (charged, of_charged) = (
        best_epsilon(totals.header, curve) for curve in (cohort.reserved(), cohort.counted())
    )
    why = "the run is settled: what was released counts" if is_settled else "not settled: what was reserved counts"
    console.print(Text(f"{why}. {'Everyone pays it.' if cohort.root is None else f'Root {cohort.root}.'}"))
    console.print(
        Text(
            f"A report's Renyi figures of this cohort: reserved {reserved:.6f} (order {of_reserved:g}),"
            f" charged {charged:.6f} (order {of_charged:g})"
        )
    )
