"""Site folders as strangers write them: what is odd is run or refused in a sentence, never a crash."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from common.compose import ConfigError, compose
from simulations.cli import app
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


def overrides_of(root: Path, task: str) -> tuple[str, ...]:
    """One round over the folders below `root`, with noise that can be replayed."""
    return (*SMALL, f"data.root={root}", "rounds=1", f"objective.task={task}", REPEATABLE)


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
    asked = (*overrides_of(tmp_path / "data", task), f"privacy={privacy}")
    prepared = begin(compose(asked), tmp_path / "runs")
    record = run(prepared, silent)
    assert record.test is not None
    assert record.test.sites["site-0"].num_subjects == 0 < record.test.sites["site-1"].num_subjects
    assert record.test.figures
    assert sum(site.num_subjects for site in record.test.sites.values()) == record.test.num_subjects
    assert rewrite_reports(prepared.folder.path)


def test_sites_that_do_not_have_the_task_are_left_out_and_pay_nothing(tmp_path: Path) -> None:
    folders = write_toy_sites(tmp_path / "data", subjects=12)
    set_tasks(folders[:3], "sick", "stay")
    prepared = begin(compose(overrides_of(tmp_path / "data", "stay")), tmp_path / "runs")
    assert [site.name for site in prepared.sites] == ["site-0", "site-1", "site-2"]
    assert prepared.config.honesty.endswith("Left out, as they have no task stay: site-3.")
    assert not list(tmp_path.glob("runs/*/*/sites/site-3"))
    few = r"secagg\.k_min: every sum takes 4 sites at least, and here are 3; .* have no task stay: site-3\."
    with pytest.raises(ConfigError, match=few):
        begin(compose((*overrides_of(tmp_path / "data", "stay"), "secagg.k_min=4")), tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"objective\.task: the site folders have \['sick', 'stay'\], got 'height'"):
        begin(compose(overrides_of(tmp_path / "data", "height")), tmp_path / "runs")


def test_a_check_of_many_modalities_fits_a_terminal(tmp_path: Path) -> None:
    [folder] = write_toy_sites(tmp_path, sites=1, subjects=12)
    path = folder / "dataset.yaml"
    described = yaml.safe_load(path.read_text())
    named = [f"measurement-{place}" for place in range(12)]
    described["modalities"] = {name: {"kind": "tabular", "columns": ["crp"], "missing": ["", "?"]} for name in named}
    path.write_text(yaml.safe_dump(described))
    said = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["site", "check", str(folder)]).stdout
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
    assert all(said.count(f" {name} ") == 2 for name in named), "once among who has what, once among the modalities"


@pytest.mark.parametrize("normalisation", ["none", "site"])
def test_a_number_without_public_bounds_is_refused_before_the_run(tmp_path: Path, normalisation: str) -> None:
    """It was cut to [-5, 5], unseen: of a column of ages nothing was left."""
    for folder in write_toy_sites(tmp_path / "data", subjects=12):
        path = folder / "dataset.yaml"
        described = yaml.safe_load(path.read_text())
        del described["modalities"]["vitals"]["bounds"]["age"]
        path.write_text(yaml.safe_dump(described))
    asked = (*overrides_of(tmp_path / "data", "sick"), f"data.normalisation={normalisation}")
    with pytest.raises(ConfigError, match=r"dataset\.yaml, modality vitals, column age: it has no public bounds"):
        begin(compose(asked), tmp_path / "runs")
