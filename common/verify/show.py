"""The verdict for a person: what is wrong, what the entries add up to, and a sum that can be checked by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.verify.facts import ADJACENCY, SAMPLING, UNIT
from common.verify.finding import WHOLE, Finding, shown, shown_entries
from common.verify.totals import RunCost, Totals, best_epsilon
from common.verify.verdict import Verdict

MOST_ROWS = 40
_MOST_NAMES = 5
_LEFT = 2  # columns that hold words
_PLACES = Decimal("1e-9")


def show(console: Console, verdict: Verdict, name: str) -> None:
    """Print everything: problems last, where they are seen."""
    totals = verdict.totals
    if totals is not None:
        if verdict.problems:
            console.print(
                Text("There are problems, named at the end: the figures are of what could be read.", style="red")
            )
        _show_header(console, verdict, totals, name)
        _show_runs(console, totals)
        show_sum(console, totals)
        _show_classes(console, totals)
    show_findings(console, verdict)


def show_findings(console: Console, verdict: Verdict) -> None:
    """Print notes, anchors and problems."""
    _list(console, "Worth knowing", verdict.notes, "yellow")
    console.print(Text(f"\n{verdict.anchor}"))
    if verdict.problems:
        count = len(verdict.problems)
        _list(console, "1 problem" if count == 1 else f"{count} problems", verdict.problems, "red")
    else:
        console.print(Text(f"No problem in {len(verdict.entries)} entries.", style="green"))


def show_sum(console: Console, totals: Totals) -> None:
    """Write the filter's figure out: the rows add up to the total, and the total goes into the formula."""
    order, delta = totals.header.order, totals.header.delta
    grid = table(
        f"What the filter needs, at order a = {order:g}", ("run", "from entries", "rho of its costliest cohort")
    )
    rows, total = _summands(totals)
    for cells in rows:
        add(grid, cells)
    grid.add_section()
    add(grid, ("total rho", "", f"{total:f}"))
    console.print(grid)
    first, second = math.log(1 - 1 / order), -(math.log(delta) + math.log(order)) / (order - 1)
    if total:
        console.print(Text("needed = rho + ln(1 - 1/a) - (ln delta + ln a) / (a - 1)"))
        console.print(Text(f"       = {total:f} + ln(1 - 1/{order:g}) - (ln {delta:g} + ln {order:g}) / {order - 1:g}"))
        console.print(Text(f"       = {total:f} {first:+.9f} {second:+.9f}"))
    console.print(
        Text(f"needed = {float(total) + first + second if total else 0.0:.6f} at delta = {delta:g}", style="bold")
    )
    console.print(
        Text(
            f"spent  = {totals.spent:.6f}: the same sum at order {totals.spent_order:g}, which gives the least;"
            " it holds for runs that were all planned beforehand"
        )
    )


def table(title: str, columns: Sequence[str]) -> Table:
    """Make a table of two columns of words and others of numbers."""
    grid = Table(title=Text(title), title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        grid.add_column(column, justify="left" if place < _LEFT else "right", overflow="fold")
    return grid


def add(grid: Table, cells: Iterable[str]) -> None:
    """Add a row of plain text: a run's name is no markup."""
    grid.add_row(*(Text(cell) for cell in cells))


def _show_header(console: Console, verdict: Verdict, totals: Totals, name: str) -> None:
    header, budget = totals.header, verdict.budget
    grid = table(f"Ledger {shown(name)}", ("", ""))
    grid.show_header = False
    allowed = "not given" if budget is None else f"epsilon {budget.epsilon:g}"
    facts = {
        "site": shown(header.site),
        "made": header.when.isoformat(),
        "tables": f"version {verdict.story.version}",
        "entries": f"{len(verdict.entries)}, the newest with digest {shown(verdict.entries[-1].digest)}",
        "signed by": header.public_key,
        "protects": f"a {UNIT}, neighbours: {ADJACENCY}, sampling: {SAMPLING}",
        "delta": f"{header.delta:g}",
        "filter's order": f"{header.order:g}, one of {len(header.orders)}",
        "needed": f"epsilon {totals.needed:.6f} by the filter",
        "largest subject": f"epsilon {totals.largest():.6f}",
        "budget": allowed,
    }
    for fact in facts.items():
        add(grid, fact)
    console.print(grid)


def _show_runs(console: Console, totals: Totals) -> None:
    grid = table(
        "Runs",
        ("run", "entries", "reserved", "released", "given back", "rho", "epsilon alone", "of all reserved"),
    )
    costliest = _costliest(totals)
    for cost in totals.runs:
        if cost.run.name not in costliest:
            continue
        lines = [line for cohort in cost.cohorts for line in cohort.charges]
        alone = (best_epsilon(totals.header, curve)[0] for curve in (cost.counted(), cost.reserved()))
        add(
            grid,
            (
                *(shown(cost.run.name), _where(cost)),
                ", ".join(f"{line.charge.count} {shown(line.charge.purpose)}" for line in lines),
                ", ".join(f"{line.released} {shown(line.charge.purpose)}" for line in lines),
                str(sum(line.charge.count - line.counted for line in lines)),
                *(f"{cost.counted()[totals.at]:.9f}", *(f"{epsilon:.4f}" for epsilon in alone)),
            ),
        )
    console.print(grid)
    if len(costliest) < len(totals.runs):
        hidden = len(totals.runs) - len(costliest)
        console.print(Text(f"{hidden} cheaper runs are left out; --json has all, --explain RUN has one"))


def _summands(totals: Totals) -> tuple[list[tuple[str, str, str]], Decimal]:
    """The rows of the sum and their total, each run rounded to nine places, so that what is printed adds up exactly."""
    costliest, rows, others = _costliest(totals), [], Decimal(0)
    total = Decimal(0)
    for cost in totals.runs:
        rho = Decimal(cost.counted()[totals.at]).quantize(_PLACES)
        total += rho
        if cost.run.name in costliest:
            rows.append((shown(cost.run.name), shown_entries(cost.run.entries()), f"{rho:f}"))
        else:
            others += rho
    hidden = len(totals.runs) - len(rows)
    return rows + ([(f"{hidden} cheaper runs together", "", f"{others:f}")] if hidden else []), total


def _costliest(totals: Totals) -> set[str]:
    """The names of the runs that are worth a row."""
    ranked = sorted(totals.runs, key=lambda cost: -cost.counted()[totals.at])
    return {cost.run.name for cost in ranked[:MOST_ROWS]}


def _where(cost: RunCost) -> str:
    run = cost.run
    released = shown_entries(sorted(run.releases))
    settled = "not settled" if run.settled_at is None else f"settled {run.settled_at}"
    return f"reserved {run.reserved_at}; {f'released {released}; ' if released else ''}{settled}"


def _show_classes(console: Console, totals: Totals) -> None:
    reserved = [(cost, cost.run.reservation) for cost in totals.runs]
    named = {root: (cost, cohort) for cost, said in reserved if said for cohort, root in (said.roots or {}).items()}
    grid = table("Subjects in the same cohorts", ("cohorts", "reserved by entries", "subjects", "rho", "epsilon"))
    for each in totals.classes[:MOST_ROWS]:
        parts = sorted((named[root] for root in each.roots if root in named), key=lambda part: part[0].run.reserved_at)
        cohorts = ", ".join(f"{shown(cohort)} of {shown(cost.run.name)}" for cost, cohort in parts[:_MOST_NAMES])
        cohorts += f" and {len(parts) - _MOST_NAMES} more" if len(parts) > _MOST_NAMES else ""
        entries = shown_entries([cost.run.reserved_at for cost, _ in parts])
        add(grid, (cohorts, entries, str(each.subjects), f"{each.rho:.9f}", f"{each.epsilon:.6f}"))
    everyone = [cost.run.reserved_at for cost in totals.runs if cost.is_for_everyone()]
    cells = (shown_entries(everyone), "any", f"{totals.everyone:.9f}", f"{totals.epsilon(totals.everyone):.6f}")
    add(grid, ("in no cohort", *cells))
    console.print(grid)
    if len(totals.classes) > MOST_ROWS:
        console.print(Text(f"{len(totals.classes) - MOST_ROWS} classes that spent less are left out; --json has all"))


def _list(console: Console, title: str, found: Sequence[Finding], style: str) -> None:
    if not found:
        return
    console.print(Text(f"\n{title}", style=f"bold {style}"))
    for each in found[:MOST_ROWS]:
        place = "the ledger" if each.entry == WHOLE else f"entry {each.entry}"
        console.print(Text(f"  {place}: {each.text}", style=style))
    if len(found) > MOST_ROWS:
        console.print(Text(f"  and {len(found) - MOST_ROWS} more; --json has all", style=style))
