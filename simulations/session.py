"""What the commands do: start, resume, explain, print."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.compose import ConfigError, compose, explain, sweep

if TYPE_CHECKING:
    from common.config import Config


def explain_key(key: str) -> str:
    """Say what a configuration key means."""
    return explain(key)


def start_runs(overrides: list[str], root: Path, *, as_json: bool, multirun: bool) -> None:
    """Compose, check and run: one run, or one for each combination of a sweep."""
    chosen = list(sweep(overrides)) if multirun else [tuple(overrides)]
    configs = [compose(choice) for choice in chosen]  # every one is checked before the first begins
    _quiet()
    from simulations.run import begin  # noqa: PLC0415  (torch: only once the configuration is right)

    if len(configs) == 1:
        _finish(begin(configs[0], root), as_json=as_json)
    else:
        _search(configs, chosen, root, as_json=as_json)


def _search(configs: list[Config], chosen: list[tuple[str, ...]], root: Path, *, as_json: bool) -> None:
    """Make every run of a sweep on the same ledgers, and say what they cost together, however it ends."""
    from rich.console import Console  # noqa: PLC0415

    from client.policy import Refused  # noqa: PLC0415
    from simulations.run import Prepared, begin  # noqa: PLC0415
    from simulations.search import cost_of_search, share_ledgers, table  # noqa: PLC0415

    folder, configs = share_ledgers(configs, root)
    states = ", ".join(sorted({str(config.site.state) for config in configs}))
    sys.stderr.write(
        f"fedmosaic: {len(configs)} runs, charged to the ledgers in {states}: there they add up, and what"
        " site.lifetime_epsilon does not hold is refused\n"
    )
    begun: list[tuple[Prepared, tuple[str, ...]]] = []
    as_planned = False  # whoever stops a search early may have seen something; a refusal comes from the ledgers alone
    try:
        for config, choice in zip(configs, chosen, strict=True):
            begun.append((begin(config, root), choice))
            _finish(begun[-1][0], as_json=as_json)
        as_planned = True
    except Refused:
        as_planned = True
        raise
    finally:
        if begun:
            cost = cost_of_search(begun, planned=len(configs), as_planned=as_planned)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "search.json").write_text(cost.to_json())
            Console(stderr=as_json).print(table(cost, _shown(folder)))
        else:
            shutil.rmtree(folder, ignore_errors=True)


def resume_run(path: Path, overrides: list[str], *, as_json: bool) -> None:
    """Go on with a run that was stopped."""
    if overrides:
        raise ConfigError(f"--resume goes on with the run as it was configured; take {overrides[0]!r} away")
    _quiet()
    from simulations.run import reopen  # noqa: PLC0415

    _finish(reopen(path), as_json=as_json)


def rewrite_reports(path: Path) -> tuple[Path, ...]:
    """Write a run's pages again.

    Raises:
        ConfigError: the run has no metrics.json: it is not finished.
    """
    from common.reports.record import RunRecord  # noqa: PLC0415
    from common.reports.write import write_all  # noqa: PLC0415

    metrics = path / "metrics.json"
    if not metrics.exists():
        raise ConfigError(f"{metrics} does not exist: only a finished run has reports")
    return write_all(path, RunRecord.from_json(metrics.read_text()))


def _finish(prepared: Prepared, *, as_json: bool) -> None:  # type: ignore[name-defined]  # noqa: F821
    from server.progress import live  # noqa: PLC0415
    from simulations.run import run  # noqa: PLC0415
    from simulations.summary import summary, table  # noqa: PLC0415

    folder = prepared.folder.path
    try:
        record = run(prepared, live)
    except KeyboardInterrupt:
        sys.stderr.write(f"fedmosaic: go on with: fedmosaic simulate --resume {_shown(folder)}\n")
        raise
    if as_json:
        sys.stdout.write(json.dumps(summary(record, _shown(folder)), allow_nan=False) + "\n")
        return
    from rich.console import Console  # noqa: PLC0415

    Console().print(table(record, _shown(folder)))


def _shown(folder: Path) -> str:
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def _quiet() -> None:
    """What must be set before flwr, ray or torch are imported."""
    from common.deployment.environment import QUIET  # noqa: PLC0415

    for name, value in {**QUIET, "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)
