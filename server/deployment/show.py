"""`server status` for people: a few tables on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from server.deployment.status import RunStatus, Status

_AGAIN_SECONDS = 5.0
_COLOURS = {"online": "green", "up": "green", "ended": "green", "training": "cyan", "stopped": "red", "down": "red"}
_LAST_ROUNDS = 8


def show(ask: Callable[[], Status], *, watch: bool, timing: bool) -> None:
    """Print a status, once or again and again."""
    console = Console()
    if not watch:
        console.print(drawn(ask(), timing=timing))
        return
    with Live(drawn(ask(), timing=timing), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(_AGAIN_SECONDS)
            live.update(drawn(ask(), timing=timing), refresh=True)


def drawn(status: Status, *, timing: bool) -> RenderableType:
    """Everything on one screen."""
    head = Text.assemble(
        (status.consortium, "bold"), f"  gate {status.address}, SuperLink ", (status.link, _COLOURS[status.link])
    )
    parts: list[RenderableType] = [head, _sites(status)]
    if status.run is not None:
        parts += [_run(status.run), _timing(status.run) if timing else _rounds(status.run)]
    for trouble in status.troubles:
        parts.append(Text.assemble((trouble.what, "yellow"), f"\n  {trouble.helps}"))
    return Group(*parts)


def _sites(status: Status) -> Table:
    table = Table("institution", "node", box=None, pad_edge=False)
    for site in status.sites:
        table.add_row(site.name, Text(site.state, _COLOURS.get(site.state, "yellow")))
    return table


def _run(run: RunStatus) -> Text:
    budget = "no privacy" if run.epsilon is None else f"epsilon {run.epsilon:g} at delta {run.delta:g}"
    released = ", ".join(run.released) or "no table yet"
    return Text.assemble(
        f"\nrun {run.name}: ",
        (run.state, _COLOURS.get(run.state, "yellow")),
        f", {len(run.rounds)} of {run.rounds_planned} rounds, {budget}; released: {released}",
    )


def _rounds(run: RunStatus) -> Table:
    table = Table("round", "seconds", "in the sum", "lost", box=None, pad_edge=False)
    for one in run.rounds[-_LAST_ROUNDS:]:
        lost = ", ".join(f"{name} ({why})" for name, why in one.lost.items())
        table.add_row(str(one.number), f"{one.seconds:.1f}", ", ".join(one.sites) or "aborted", lost)
    return table


def _timing(run: RunStatus) -> Table:
    stages = list(dict.fromkeys(name for one in run.rounds for name in one.stages))
    table = Table("round", "seconds", *stages, "the rest", box=None, pad_edge=False)
    for one in run.rounds[-_LAST_ROUNDS:]:
        rest = one.seconds - sum(one.stages.values())
        spent = (f"{one.stages.get(name, 0.0):.1f}" for name in stages)
        table.add_row(str(one.number), f"{one.seconds:.1f}", *spent, f"{rest:.1f}")
    return table
