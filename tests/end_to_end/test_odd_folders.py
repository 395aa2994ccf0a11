"""Site folders as strangers write them: what is odd is run or refused in a sentence, never a crash."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from common.compose import compose
from simulations.run import begin, run
from simulations.session import rewrite_reports
from tests.federation_run import REPEATABLE, SMALL, silent
from tests.toy_federation import set_tasks, write_toy_sites

Cells = dict[str, str]


def change(folder: Path, how: Callable[[Cells], Mapping[str, str]]) -> None:
    """Write a folder's manifest anew, row by row."""
    path = folder / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [how(row) for row in csv.DictReader(file)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def all_in(folder: Path, split: str) -> None:
    """Put all of a folder's subjects into one cohort."""
    change(folder, lambda row: {**row, "cohort": split})
    path = folder / "dataset.yaml"
    path.write_text(f"split: cohort\n{path.read_text()}")


@pytest.mark.slow
@pytest.mark.parametrize(("privacy", "task"), [("none", "findings"), ("subject", "sick")])
def test_sites_without_held_out_or_without_training_subjects_take_part(tmp_path: Path, privacy: str, task: str) -> None:
    folders = write_toy_sites(tmp_path / "data", subjects=12)
    set_tasks(folders, task)
    all_in(folders[0], "train")
    all_in(folders[1], "test")
    asked = (*SMALL, f"data.root={tmp_path / 'data'}", "rounds=1", f"privacy={privacy}", f"objective.task={task}")
    prepared = begin(compose((*asked, *([REPEATABLE] if privacy == "subject" else []))), tmp_path / "runs")
    record = run(prepared, silent)
    assert record.test is not None
    assert record.test.sites["site-0"].num_subjects == 0 < record.test.sites["site-1"].num_subjects
    assert record.test.figures
    assert rewrite_reports(prepared.folder.path)
