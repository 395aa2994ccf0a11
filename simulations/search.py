"""A search over configurations: every run is charged to the same ledgers, and the end says what all cost together."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from client.enrolment import open_ledger
from client.ledger_account import CohortLine, RunLine
from client.policy import read_policy
from client.site import Site
from common.config import Config
from common.privacy.accounting import pld_epsilon
from common.privacy.events import Charge, Event
from common.privacy.renyi import ORDERS, epsilon_at, renyi
from simulations.run import Prepared

UNPROTECTED = "Runs without differential privacy were among them: together they promise nothing."
NOT_A_PLAN = "The search was stopped on its way, perhaps after results were seen: only the filter's figure counts."


@dataclass(frozen=True)
class SearchedRun:
    """One run of a search: its folder, what was chosen, and epsilon of that run alone at its costliest site."""

    run: str
    folder: str
    choice: tuple[str, ...]
    epsilon: float | None


@dataclass(frozen=True)
class SiteCost:
    """What a search cost a subject of one site who pays most.

    Attributes:
        as_a_plan: PLD epsilon of all runs together, which were fixed before the first began; None: something other
            than the ledgers ended the search early, or a run had no differential privacy.
        by_the_filter: the lifetime epsilon that the ledger's filter needs for these runs alone; None: as above.
        spent: of the ledger, with what other runs were charged before.
    """

    site: str
    ledger: str
    delta: float
    as_a_plan: float | None
    by_the_filter: float | None
    spent: float
    lifetime_epsilon: float


@dataclass(frozen=True)
class SearchCost:
    """What a search cost, by site; `planned` runs were to be made, `unprotected` had no differential privacy."""

    planned: int
    unprotected: int
    runs: tuple[SearchedRun, ...]
    sites: tuple[SiteCost, ...]

    def to_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def share_ledgers(configs: Sequence[Config], root: Path) -> tuple[Path, list[Config]]:
    """Name the search's folder, and let runs that name no `site.state` keep their sites' state there, all the same.

    Runs on the same subjects add up, whoever makes them: with a ledger of its own each would look like the only one.
    """
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{configs[0].hash()[:6]}-search"
    folder, attempt = (root / configs[0].experiment / stem).resolve(), 0
    while folder.exists():
        attempt += 1
        folder = folder.with_name(f"{stem}-{attempt}")
    shared = {"state": str(folder / "sites")}
    return folder, [
        config if config.site.state else config.model_copy(update={"site": config.site.model_copy(update=shared)})
        for config in configs
    ]


def cost_of_search(
    finished: Sequence[tuple[Prepared, tuple[str, ...]]], *, planned: int, as_planned: bool
) -> SearchCost:
    """Add up what the ledgers say of the runs of a search.

    Runs that split their subjects in the same way are paid cohort by cohort; otherwise a subject may be in any cohort
    of each run, and is taken to pay for all of them.
    """
    names = [prepared.folder.name for prepared, _ in finished]
    unprotected = sum(prepared.plan is None for prepared, _ in finished)
    same_split = len({prepared.config.data for prepared, _ in finished}) == 1
    sites = {site.state: site for prepared, _ in finished for site in prepared.sites if prepared.plan is not None}
    costs, alone = [], dict.fromkeys(names, 0.0)
    for site in sites.values():
        cost, lines = _site_cost(site, names, same_split=same_split)
        cost = replace(cost, as_a_plan=None, by_the_filter=None) if unprotected else cost
        costs.append(cost if as_planned else replace(cost, as_a_plan=None))
        for line in lines:
            alone[line.run] = max(alone[line.run], _dearest([line], cost.delta, same_split=True))
    runs = tuple(
        SearchedRun(name, str(prepared.folder.path), choice, alone[name] if prepared.plan is not None else None)
        for name, (prepared, choice) in zip(names, finished, strict=True)
    )
    return SearchCost(planned, unprotected, runs, tuple(costs))


def table(cost: SearchCost, folder: str) -> Group:
    """The search on one screen."""
    runs = Table(title=f"search: {len(cost.runs)} of {cost.planned} runs", title_justify="left")
    runs.add_column("run")
    runs.add_column("chosen")
    runs.add_column("ε of it alone", justify="right")
    for run in cost.runs:
        runs.add_row(run.run, " ".join(run.choice), "no DP" if run.epsilon is None else f"{run.epsilon:.3f}")
    paid = Table(title="what they cost together", title_justify="left")
    for name in ("site", "ε as one plan", "ε by the filter", "ε spent in the ledger", "of", "δ"):
        paid.add_column(name, justify="left" if name == "site" else "right")
    for site in cost.sites:
        figures = (_shown(site.as_a_plan), _shown(site.by_the_filter), _shown(site.spent))
        paid.add_row(site.site, *figures, f"{site.lifetime_epsilon:g}", f"{site.delta:g}")
    lines = [Text("Whoever takes the best of these runs has looked at all of them: it costs what they cost together.")]
    if cost.unprotected:
        lines.append(Text(UNPROTECTED, style="bold red"))
    elif any(site.as_a_plan is None for site in cost.sites):
        lines.append(Text(NOT_A_PLAN, style="bold red"))
    return Group(runs, *([paid] if cost.sites else []), *lines, Text(f"Written to: {folder}/search.json"))


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"{epsilon:.3f}"


def _site_cost(site: Site, names: Sequence[str], *, same_split: bool) -> tuple[SiteCost, list[RunLine]]:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        summary = ledger.spent()
    lines = [line for line in summary.runs if line.run in names]
    place = ORDERS.index(summary.order)
    filtered = math.fsum(_renyi_of(line, place) for line in lines)
    cost = SiteCost(
        site=site.name,
        ledger=str(site.ledger_path),
        delta=summary.delta,
        as_a_plan=_dearest(lines, summary.delta, same_split=same_split),
        by_the_filter=epsilon_at(summary.order, filtered, summary.delta) if filtered else 0.0,
        spent=summary.spent,
        lifetime_epsilon=summary.lifetime_epsilon,
    )
    return cost, lines


def _renyi_of(line: RunLine, place: int) -> float:
    """What the filter charges for a run: its costliest cohort, without what was given back."""
    return max((renyi(_events(cohort.charged))[place] for cohort in line.cohorts), default=0.0)


def _dearest(lines: Sequence[RunLine], delta: float, *, same_split: bool) -> float:
    """PLD of what was reserved: steps that were given back count, because who stopped may have seen the others."""
    cohorts: dict[str, list[CohortLine]] = {}
    for line in lines:
        for cohort in line.cohorts:
            cohorts.setdefault(cohort.cohort if same_split else "", []).append(cohort)
    return max(
        (
            pld_epsilon([event for cohort in paid for event in _events(cohort.reserved)], delta)
            for paid in cohorts.values()
        ),
        default=0.0,
    )


def _events(charges: Iterable[Charge]) -> list[Event]:
    return [charge.event for charge in charges]
