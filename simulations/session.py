"""What the commands do: start, resume, explain, print."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from common.compose import ConfigError, compose, explain, sweep


def explain_key(key: str) -> str:
    """Say what a configuration key means."""
    return explain(key)


def start_runs(overrides: list[str], root: Path, *, as_json: bool, multirun: bool) -> None:
    """Compose, check and run: one run, or one for each combination of a sweep."""
    chosen = list(sweep(overrides)) if multirun else [tuple(overrides)]
    configs = [compose(choice) for choice in chosen]  # every one is checked before the first begins
    _quiet()
    from simulations.run import begin  # noqa: PLC0415  (torch: only once the configuration is right)

    for config in configs:
        _finish(begin(config, root), as_json=as_json)


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
    from simulations.progress import live  # noqa: PLC0415
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
    from simulations.flower import QUIET  # noqa: PLC0415

    for name, value in {**QUIET, "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)
