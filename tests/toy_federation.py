"""Tiny synthetic site folders: three tabular modalities, some cells missing, a label that can be learnt."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import yaml

_MODALITIES: dict[str, dict[str, object]] = {
    "labs": {
        "kind": "tabular",
        "columns": ["crp", "ldh"],
        "bounds": {"crp": [-4, 4], "ldh": [-4, 4]},
        "missing": ["", "?"],
    },
    "vitals": {
        "kind": "tabular",
        "columns": ["age", "pulse"],
        "categorical": {"sex": ["female", "male"]},
        "bounds": {"age": [0, 100], "pulse": [-4, 4]},
    },
    "ward": {"kind": "tabular", "columns": [], "categorical": {"triage": ["green", "yellow", "red"]}},
}
TASKS: dict[str, dict[str, object]] = {
    "sick": {"kind": "binary", "column": "sick"},
    "stay": {"kind": "regression", "column": "stay", "bounds": [0, 20]},
    "findings": {"kind": "multilabel", "columns": ["fever", "edema", "rash"]},
}
_MISSING_CHANCE = 0.15


def write_toy_sites(
    target: Path,
    *,
    sites: int = 4,
    subjects: int = 60,
    seed: int = 0,
    lacking: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Path, ...]:
    """Write `sites` folders called site-0, site-1, ... of `subjects` subjects; one in six has a second row.

    `lacking` names, by site, modalities that the site's folder does not have at all. The task is `sick`; the attributes
    are `sex` (female, male) and `age` (<50, 50-65, >=65). Without a split column the reader splits by subject.
    """
    paths = []
    for number in range(sites):
        name = f"site-{number}"
        gone = (lacking or {}).get(name, ())
        folder = target / name
        folder.mkdir(parents=True)
        description = {
            "name": name,
            "subject": "person",
            "modalities": {key: entry for key, entry in _MODALITIES.items() if key not in gone},
            "tasks": {"sick": TASKS["sick"]},
            "attributes": {
                "sex": {"column": "sex", "levels": ["female", "male"]},
                "age": {"column": "age", "bands": [0, 50, 65, 120]},
            },
        }
        (folder / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
        rows = _rows(np.random.default_rng([seed, number]), name, subjects)
        with (folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        paths.append(folder)
    return tuple(paths)


def set_tasks(folders: Iterable[Path], *tasks: str) -> None:
    """Give site folders these tasks (TASKS) instead; of `stay` and each of `findings` one cell in five is empty."""
    for folder in folders:
        path = folder / "dataset.yaml"
        described = {**yaml.safe_load(path.read_text()), "tasks": {task: TASKS[task] for task in tasks}}
        path.write_text(yaml.safe_dump(described, sort_keys=False))


def _rows(random: np.random.Generator, site: str, subjects: int) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for number in range(subjects):
        age, sex = random.uniform(20, 90), random.choice(["female", "male"])
        for _ in range(2 if number % 6 == 0 else 1):
            crp, ldh, pulse = random.normal(size=3)
            triage = random.integers(3)
            logit = 1.5 * crp - ldh + 0.8 * pulse + (age - 55) / 20 + triage - 1
            sick = int(random.random() < 1 / (1 + np.exp(-logit)))
            row = {
                "crp": f"{crp:.4f}",
                "ldh": f"{ldh:.4f}",
                "pulse": f"{pulse:.4f}",
                "triage": ["green", "yellow", "red"][triage],
            }
            holed = {key: "" if random.random() < _MISSING_CHANCE else cell for key, cell in row.items()}
            if random.random() < _MISSING_CHANCE:
                holed |= {"crp": "?", "ldh": "?"}
            person = {"person": f"{site}-{number:04d}", "age": f"{age:.1f}", "sex": str(sex)}
            rows.append({**person, **holed, **_answers(len(rows), crp, ldh, pulse), "sick": str(sick)})
    return rows


def _answers(row: int, crp: float, ldh: float, pulse: float) -> dict[str, str]:
    """Columns of the other tasks, which follow from what was measured."""
    stay = f"{min(max(8 + 3 * crp - 2 * ldh + pulse, 0), 20):.2f}"
    found = {"fever": crp > 0, "edema": ldh > 1, "rash": crp + pulse < -1}
    cells = {"stay": stay} | {name: str(int(there)) for name, there in found.items()}
    return {name: "" if (row + place) % 5 == 0 else cell for place, (name, cell) in enumerate(cells.items())}
