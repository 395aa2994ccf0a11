"""Live progress: a thread reads the run's journal, which every engine writes, and draws it on stderr."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common.config import Config
from common.journal import Event, Journal
from server.folder import RunFolder

_POLL_SECONDS = 0.1


@contextmanager
def live(folder: RunFolder, config: Config) -> Iterator[None]:
    """Show rounds and sites while the run goes on."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=8, transient=True) as progress:
        task = progress.add_task("rounds", total=config.rounds, said="asking the sites")
        done = threading.Event()

        def follow() -> None:
            seen: set[tuple[str, int]] = set()
            while not done.wait(_POLL_SECONDS):
                for event in _new(folder.journal, seen):
                    progress.update(task, completed=event.round, said=_said(event))
                    _warn(console, event)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _new(journal: Journal, seen: set[tuple[str, int]]) -> list[Event]:
    fresh = [event for event in journal.events() if (event.kind, event.round) not in seen]
    seen.update((event.kind, event.round) for event in fresh)
    return sorted(fresh, key=lambda event: event.time)


def _said(event: Event) -> str:
    if event.kind == "enrolled":
        return "all sites agreed"
    sites = event.facts.get("sites")
    who = ", ".join(sites) if isinstance(sites, list) else ""
    return f"{event.kind}: {who}" if event.kind != "round" else who


def _warn(console: Console, event: Event) -> None:
    if aborted := event.facts.get("aborted"):
        console.print(f"[yellow]round {event.round} was aborted:[/yellow] {aborted}", highlight=False)
    elif dropped := event.facts.get("dropped"):
        names = ", ".join(dropped) if isinstance(dropped, list) else dropped
        console.print(f"[yellow]round {event.round}:[/yellow] went on without {names}", highlight=False)
