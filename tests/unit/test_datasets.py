"""The data sets that are written as site folders: what is in them, who is where, and what is simulated."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from common.config import DataConfig
from common.data.folder import read_spec
from simulations.datasets.folders import Row
from simulations.federation import WRITERS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ROOTS = {"digits": SHARED / "spoken-digits", "xray_labs": SHARED / "chest-xray-labs"}
KINDS = ("watch", "digits", "xray_labs", "nafld", "synthetic")


def settings(kind: str, **changes: object) -> DataConfig:
    root = ROOTS.get(kind)
    if root is not None and not root.is_dir():
        pytest.skip(f"NOT TESTED: the recordings of {kind} are not on this machine")
    return DataConfig.model_validate({"kind": kind, "normalisation": "none", "root": root and str(root), **changes})


def written(tmp_path: Path, kind: str, **changes: object) -> dict[str, list[Row]]:
    folders = WRITERS[kind](settings(kind, **changes), tmp_path / kind)
    found = {}
    for folder in folders:
        with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
            found[folder.name] = list(csv.DictReader(file))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_subject_is_at_one_site_and_in_one_cohort_and_every_file_is_there(tmp_path: Path, kind: str) -> None:
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for site, rows in written(tmp_path, kind).items():
        spec = read_spec(tmp_path / kind / site)
        assert spec.name == site
        columns = [
            column
            for modality in spec.modalities.values()
            if modality.kind in ("image", "audio", "signal")
            for column in modality.named_columns
        ]
        for row in rows:
            places[row[spec.subject]].add((site, row[spec.split or ""]))
            assert all((tmp_path / kind / site / row[column]).is_file() for column in columns if row[column])
    assert all(len(where) == 1 for where in places.values())
    assert {split for where in places.values() for _, split in where} == {"train", "test"}


def test_ten_people_did_seven_exercises_twice(tmp_path: Path) -> None:
    rows = written(tmp_path, "watch")
    assert len(rows) == 10
    recordings = {row["recording"]: row["exercise"] for own in rows.values() for row in own}
    assert Counter(recordings.values()) == dict.fromkeys(("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"), 20)


def test_the_official_test_recordings_of_the_digits_are_held_out_and_no_image_is_used_twice(tmp_path: Path) -> None:
    rows = [row for own in written(tmp_path, "digits").values() for row in own]
    assert Counter(row["split"] for row in rows) == {"train": 2700, "test": 300}
    assert all((int(row["recording"].split("-")[2]) < 5) == (row["split"] == "test") for row in rows)
    assert len({row["image"] for row in rows}) == 3000
    assert all(Path(row["image"]).name.split("-")[0] == row["digit"] for row in rows)


@pytest.mark.parametrize(("kind", "who"), [("watch", "person-03"), ("digits", "theo")])
def test_nobody_trains_on_who_is_held_out_and_all_tests_are_on_them(tmp_path: Path, kind: str, who: str) -> None:
    rows = written(tmp_path, kind, held_out=(who,))
    assert who not in rows
    for own in rows.values():
        recordings = [row["recording"] for row in own if row["split"] == "test"]
        assert recordings
        assert all(who in recording for recording in recordings)
        assert not any(who in row["recording"] for row in own if row["split"] == "train")


def test_a_patient_of_the_xrays_has_one_label_and_values_within_the_bounds(tmp_path: Path) -> None:
    rows = [row for own in written(tmp_path, "xray_labs").values() for row in own]
    assert len(rows) == 243
    labels = defaultdict(set)
    for row in rows:
        labels[row["patient"]].add(row["icu"])
        assert "inf" not in row["crp"] + row["d-dimer"] + row["po2"]
    assert Counter(next(iter(label)) for label in labels.values()) == {"1": 29, "0": 42}
    assert all(len(label) == 1 for label in labels.values())


def test_who_was_followed_for_too_short_a_time_has_no_label(tmp_path: Path) -> None:
    rows = [row for own in written(tmp_path, "nafld").values() for row in own]
    assert len(rows) == 17549
    assert Counter(row["died"] for row in rows) == {"yes": 731, "no": 9945, "": 6873}


def test_modalities_are_taken_away_at_the_chance_that_is_asked_for_and_files_go_with_them(tmp_path: Path) -> None:
    rows = [row for own in written(tmp_path, "synthetic", missing=0.3).values() for row in own]
    columns = ("scan", "cough", "ppg", "note", "crp")
    gone = sum(not row[column] for row in rows for column in columns) / (len(rows) * len(columns))
    assert 0.25 < gone < 0.35
    assert all(any(row[column] for column in columns) for row in rows)
    files = [path for path in (tmp_path / "synthetic").rglob("*.*") if path.suffix in (".png", ".wav")]
    assert len(files) == sum(bool(row[column]) for row in rows for column in ("scan", "cough"))


def test_bias_makes_one_group_noisier_and_nothing_else(tmp_path: Path) -> None:
    small = {"sites": 2, "subjects": 400, "kinds": ("tabular",)}
    rows = [row for own in written(tmp_path, "synthetic", synthetic={**small, "bias": 3.0}).values() for row in own]
    wrong = {
        group: [(float(row["crp"]) > 0) != (row["sick"] == "yes") for row in rows if row["group"] == group]
        for group in "ab"
    }
    assert sum(wrong["b"]) / len(wrong["b"]) > sum(wrong["a"]) / len(wrong["a"]) + 0.1
    assert 0.4 < sum(row["sick"] == "yes" for row in rows) / len(rows) < 0.6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "digits", "root": "/nowhere"}, r"data=digits needs data\.root=DIR"),
        ({"kind": "xray_labs"}, r"data=xray_labs needs data\.root=DIR"),
        ({"kind": "watch", "held_out": ("nobody",)}, "data.held_out: the people are person-01, .*'nobody'"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    config = DataConfig.model_validate({"normalisation": "none", **changes})
    with pytest.raises(ValueError, match=says):
        WRITERS[config.kind](config, tmp_path / "data")
    assert not (tmp_path / "data").exists()
