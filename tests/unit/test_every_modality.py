"""A folder with every kind of modality: read, put into a batch, and shaped by public facts alone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.batch import assemble
from common.data.folder import SiteData, read_site, read_spec
from common.data.normalise import from_bounds
from common.data.schema import Schema, merge_schemas
from tests.every_modality import MODALITIES, write_every_modality

COLUMNS = {"xray": "xray_path", "note": "note", "voice": "wav_path", "ppg": "ppg_path"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_every_modality(tmp_path_factory.mktemp("every"), sites=2, lacking={"site-1": ("voice",)})


@pytest.fixture(scope="module")
def sites(folders: tuple[Path, ...]) -> list[SiteData]:
    return [read_site(folder, split_seed=0) for folder in folders]


@pytest.fixture(scope="module")
def schema(folders: tuple[Path, ...]) -> Schema:
    return merge_schemas([read_spec(folder) for folder in folders])


def test_a_modality_is_there_exactly_where_its_cell_is(folders: tuple[Path, ...], sites: list[SiteData]) -> None:
    with (folders[0] / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, column in COLUMNS.items():
        there = sites[0].readings[name].lengths > 0
        assert there.tolist() == [bool(row[column]) for row in rows]
        assert not sites[0].readings[name].values[~there].any()
    assert set(sites[1].held) == set(MODALITIES) - {"voice"}
    assert len(sites[0].row_subject) > len(sites[0].subjects) == 24


def test_every_modality_goes_into_a_batch_of_public_shape(sites: list[SiteData], schema: Schema) -> None:
    for site in sites:
        batch = assemble(site, schema, from_bounds(schema), np.arange(len(site.row_subject)))
        rows = len(site.row_subject)
        shapes = {"xray": (1, 1, 16, 16), "note": (32,), "voice": (250,), "ppg": (50, 2), "labs": (1, 7)}
        assert {name: tuple(value.shape) for name, value in batch.values.items()} == {
            name: (rows, *shape) for name, shape in shapes.items()
        }
        assert all(torch.isfinite(value.double()).all() for value in batch.values.values())
        assert batch.mask["voice"].any() == ("voice" in site.held)


def test_what_a_record_says_survives_reading(sites: list[SiteData]) -> None:
    for site in sites:
        sick, xray = site.labels["sick"] == 1, site.readings["xray"]
        middle = xray.values[:, 0, 6:10, 6:10].mean(axis=(1, 2))
        assert middle[sick & (xray.lengths > 0)].min() > middle[~sick & (xray.lengths > 0)].max()
        starts = site.readings["ppg"].starts
        assert starts.max() > 0 == starts.min()


def test_another_row_changes_no_record(folders: tuple[Path, ...], sites: list[SiteData], tmp_path: Path) -> None:
    shorter = tmp_path / "site-0"
    shorter.mkdir()
    for path in folders[0].iterdir():
        if path.is_dir():
            (shorter / path.name).symlink_to(path)  # refused below: what a link names lies elsewhere
    lines = (folders[0] / "manifest.csv").read_text().splitlines()
    (shorter / "dataset.yaml").write_bytes((folders[0] / "dataset.yaml").read_bytes())
    (shorter / "manifest.csv").write_text("\n".join(lines[:1] + lines[4:]))
    with pytest.raises(ValueError, match=r"row 2, column xray_path.*leaves the site folder"):
        read_site(shorter, split_seed=0)
    before = (folders[0] / "manifest.csv").read_text()
    try:
        (folders[0] / "manifest.csv").write_text("\n".join(lines[:1] + lines[4:]))
        some = read_site(folders[0], split_seed=0)
    finally:
        (folders[0] / "manifest.csv").write_text(before)
    for name, readings in some.readings.items():
        np.testing.assert_array_equal(readings.values, sites[0].readings[name].values[3:])


def test_people_come_and_go_with_all_their_records(folders: tuple[Path, ...], sites: list[SiteData]) -> None:
    whole = sites[0]
    stays = np.arange(len(whole.subjects)) % 3 > 0
    some = whole.only(stays)
    names = [whole.subjects[row] for row in whole.row_subject]
    kept = np.array([name in some.subjects for name in names])
    assert [some.subjects[row] for row in some.row_subject] == [
        name for name, stay in zip(names, kept, strict=True) if stay
    ]
    for name, readings in some.readings.items():
        np.testing.assert_array_equal(readings.values, whole.readings[name].values[kept])
        np.testing.assert_array_equal(readings.starts, whole.readings[name].starts[kept])
    assert len(set(some.split)) == 2
    for subject in range(len(whole.subjects)):
        cohorts = {split for split in ("train", "test") if subject in whole.row_subject[whole.rows_of(split)]}
        assert len(cohorts) == 1, "all records of one person are in one cohort"
