"""The four hospitals: the right rows, the right split, written whole and the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import DataConfig
from common.data.folder import SiteData, read_site, read_spec
from common.data.schema import merge_schemas
from simulations.datasets import heart as packaged

HEART = DataConfig.model_validate({"kind": "heart", "normalisation": "none"})
NAMES = ["cleveland", "hungary", "switzerland", "va"]


def write_heart(target: Path) -> tuple[Path, ...]:
    return packaged.write_heart(HEART, target)


def write_heart_flamby(target: Path) -> tuple[Path, ...]:
    return packaged.write_heart_flamby(HEART, target)


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> list[SiteData]:
    return [read_site(path, split_seed=99) for path in write_heart(tmp_path_factory.mktemp("heart") / "data")]


@pytest.fixture(scope="module")
def flamby(tmp_path_factory: pytest.TempPathFactory) -> list[SiteData]:
    return [read_site(path, split_seed=99) for path in write_heart_flamby(tmp_path_factory.mktemp("flamby") / "data")]


def test_920_records_of_four_hospitals(heart: list[SiteData]) -> None:
    assert [site.name for site in heart] == NAMES
    assert [len(site.row_subject) for site in heart] == [303, 294, 123, 200]  # row 304 is Hungarian
    assert all(site.left_out == 0 for site in heart)
    assert sum(int(site.labels["disease"].sum()) for site in heart) == 509


def test_someone_recorded_twice_is_one_subject(heart: list[SiteData]) -> None:
    assert [len(site.subjects) for site in heart] == [303, 293, 123, 199]
    for site in heart:
        for subject in np.flatnonzero(np.bincount(site.row_subject) > 1):
            rows = np.flatnonzero(site.row_subject == subject)
            assert len(rows) == 2
            for found in site.readings.values():
                np.testing.assert_array_equal(found.values[rows[0]], found.values[rows[1]])


def test_zero_cholesterol_and_pressure_mean_not_measured(heart: list[SiteData]) -> None:
    labs = np.concatenate([site.readings["labs"].values for site in heart])
    assert not (labs[:, :2] == 0).any()
    assert np.isnan(heart[NAMES.index("switzerland")].readings["labs"].values[:, 1]).all()


def test_modalities_are_really_missing_by_hospital(heart: list[SiteData]) -> None:
    present = {site.name: np.isfinite(site.readings["imaging"].values).any(axis=1).mean() for site in heart}
    assert present["cleveland"] > 0.95
    assert present["hungary"] < 0.2
    sick_women = [(site.attributes["sex"] == 0) & (site.labels["disease"] == 1) for site in heart]
    assert [int(found.sum()) for found in sick_women] == [25, 12, 10, 3]


def test_about_three_in_ten_are_held_out_at_every_hospital(heart: list[SiteData]) -> None:
    for site in heart:
        assert set(site.split.tolist()) == {"train", "test"}
        assert 0.25 < len(site.subjects_of("test")) / len(site.subjects) < 0.4


def test_flambys_protocol_to_the_row(flamby: list[SiteData]) -> None:
    cohorts = [(len(site.rows_of("train")), len(site.rows_of("test"))) for site in flamby]
    assert cohorts == [(199, 104), (172, 89), (30, 16), (85, 45)]
    assert [len(site.subjects) for site in flamby] == [303, 261, 46, 130]
    assert all(np.isfinite(found.values).all() for site in flamby for found in site.readings.values())
    assert not any("imaging" in site.held for site in flamby)


def test_flambys_thirteen_features(tmp_path: Path) -> None:
    schema = merge_schemas([read_spec(path) for path in write_heart_flamby(tmp_path / "data")])
    assert sum(spec.num_features for spec in schema.tables.values()) == 13
    assert schema.attributes["age"].levels == ("<50", "50-60", ">=60")


@pytest.mark.parametrize("write", [write_heart, write_heart_flamby])
def test_writing_again_gives_the_same_bytes_and_touches_nothing(
    tmp_path: Path, write: Callable[[Path], tuple[Path, ...]]
) -> None:
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    for one, other in zip(first, second, strict=True):
        for file in ("dataset.yaml", "manifest.csv"):
            assert (one / file).read_bytes() == (other / file).read_bytes()
    stamps = [(path / "manifest.csv").stat().st_mtime_ns for path in first]
    assert write(tmp_path / "first") == first
    assert [(path / "manifest.csv").stat().st_mtime_ns for path in first] == stamps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "data"
    write_heart(target)
    (target / "va" / "manifest.csv").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        write_heart(target)
    assert (target / "va" / "manifest.csv").read_text() == "mine"
