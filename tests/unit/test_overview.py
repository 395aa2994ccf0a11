"""A folder's counts are its rows', and what is odd about it is said."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.data.folder import SiteData, read_site
from common.data.overview import overview
from common.data.readings import Readings
from tests.every_modality import write_every_modality


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_every_modality(tmp_path_factory.mktemp("every"), sites=1, subjects=60)[0]


@pytest.fixture(scope="module")
def site(folder: Path) -> SiteData:
    return read_site(folder, split_seed=0)


def test_counts_are_those_of_the_manifest(folder: Path, site: SiteData) -> None:
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = overview(site)
    assert found.rows == len(rows) - found.left_out
    assert found.subjects == 60
    assert found.most_rows == 3
    whole = [line for line in found.presence if not line.task]
    assert sum(line.present["xray"] for line in whole) == sum(bool(row["xray_path"]) for row in rows)
    assert sum(line.subjects for line in whole) == 60
    sick = [line for line in found.presence if line.label == "1"]
    assert sum(line.rows for line in sick) == sum(row["sick"] == "1" for row in rows)
    assert sum(line.present["note"] for line in sick) == sum(row["sick"] == "1" and row["note"] != "" for row in rows)
    assert sum(sum(counts.values()) for counts in found.patterns.values()) == found.rows
    for facts in found.modalities:
        assert facts.rows == sum(
            sum(counts.values()) for pattern, counts in found.patterns.items() if facts.name in pattern
        )
    assert {facts.name: facts.shape for facts in found.modalities}["xray"] == (1, 1, 16, 16)
    assert {facts.name: facts.rate for facts in found.modalities}["ppg"] == 25


def test_a_sound_folder_says_only_that_a_cohort_is_small(site: SiteData) -> None:
    assert [said for said in overview(site).warnings if "cohort test has" not in said] == []


def with_values(site: SiteData, name: str, values: np.ndarray) -> SiteData:
    old = site.readings[name]
    return replace(site, readings={**site.readings, name: Readings(values, old.lengths, old.starts)})


def test_silence_one_colour_and_zeros_are_said(site: SiteData) -> None:
    ppg = site.readings["ppg"].values.copy()
    ppg[..., 1] = 0
    for name, values, says in (
        ("voice", np.zeros_like(site.readings["voice"].values), "records are silent"),
        ("xray", np.full_like(site.readings["xray"].values, 7), "records are of one colour all over"),
        ("ppg", ppg, "records have nothing but zeros in channel infrared"),
    ):
        there = int((site.readings[name].lengths > 0).sum())
        assert f"modality {name}: {there} {says}" in overview(with_values(site, name, values)).warnings


def test_a_record_that_two_people_share_is_said_and_one_persons_own_copy_is_not(site: SiteData) -> None:
    xray, there = site.readings["xray"].values, np.flatnonzero(site.readings["xray"].lengths > 0)
    one = there[0]
    other = next(row for row in there if site.row_subject[row] != site.row_subject[one])
    own = next(row for row in there[1:] if site.row_subject[row] == site.row_subject[one])
    for row, number in ((other, 1), (own, 0)):
        copied = xray.copy()
        copied[row] = xray[one]
        said = [line for line in overview(with_values(site, "xray", copied)).warnings if "another subject's" in line]
        assert len(said) == number


def test_few_people_one_with_many_rows_and_a_rare_class_are_said(site: SiteData) -> None:
    few = overview(site.only(np.arange(60) < 5)).warnings
    assert any(said.startswith("cohort train has") for said in few)
    crowded = replace(site, row_subject=np.where(np.arange(len(site.row_subject)) < 40, 0, site.row_subject))
    assert any(f"subject {site.subjects[0]!r} has 4" in said for said in overview(crowded).warnings)
    rare = replace(site, labels={"sick": np.zeros_like(site.labels["sick"])})
    assert any("labels in cohort train are '1'" in said for said in overview(rare).warnings)
    none = replace(site, labels={"sick": np.full_like(site.labels["sick"], -1)})
    assert "task sick has no label in cohort train" in overview(none).warnings


def test_what_has_no_public_bounds_is_said(folder: Path, tmp_path: Path) -> None:
    copy = write_every_modality(tmp_path, sites=1, subjects=4)[0]
    spec = copy / "dataset.yaml"
    text = spec.read_text()
    for entry in ("    bounds:\n      red:\n      - -4\n      - 4\n      infrared:\n      - -4\n      - 4\n",):
        assert entry in text
        text = text.replace(entry, "")
    spec.write_text(text)
    said = overview(read_site(copy, split_seed=0)).warnings
    assert "modality ppg: channel red has no public bounds, so its values reach the model as they are" in said


def test_an_empty_folder_has_an_overview(tmp_path: Path) -> None:
    folder = write_every_modality(tmp_path, sites=1, subjects=4)[0]
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text(lines[0] + "\n")
    found = overview(read_site(folder, split_seed=0))
    assert (found.rows, found.subjects, found.most_rows) == (0, 0, 0)


def test_numbers_and_several_labels_are_counted_as_what_they_are(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    shutil.copytree(folder, target)
    with (target / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for place, row in enumerate(rows):
        row |= {"days": "" if place % 5 == 0 else str(place), "fever": str(place % 2), "chills": str(int(place == 1))}
    with (target / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    spec = yaml.safe_load((target / "dataset.yaml").read_text())
    spec["tasks"] = {
        "stay": {"kind": "regression", "column": "days", "bounds": [0, 1000]},
        "signs": {"kind": "multilabel", "columns": ["fever", "chills"]},
    }
    (target / "dataset.yaml").write_text(yaml.safe_dump(spec))
    counted = Counter[tuple[str, str]]()
    for line in overview(read_site(target, split_seed=0)).presence:
        counted[line.task, line.label] += line.rows
    numbers = len(rows) - -(-len(rows) // 5)
    assert (counted["stay", "a number"], counted["stay", "unknown"]) == (numbers, len(rows) - numbers)
    assert (counted["signs", "fever"], counted["signs", "chills"]) == (len(rows) // 2, 1)
