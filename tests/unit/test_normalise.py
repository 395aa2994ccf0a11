"""Scaling values, and the bounded sums that a common scale is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.error import DataError
from common.data.folder import SiteData, read_site, read_spec
from common.data.normalise import (
    LARGEST_VALUE,
    features,
    from_bounds,
    from_sums,
    normalisation_length,
    normalisation_sensitivity,
    normalisation_vector,
)
from common.data.schema import Schema, merge_schemas
from tests.toy_federation import write_toy_sites


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Schema, list[SiteData]]:
    paths = write_toy_sites(tmp_path_factory.mktemp("toy"), sites=3, subjects=40, lacking={"site-1": ("labs",)})
    return merge_schemas([read_spec(path) for path in paths]), [read_site(path, split_seed=0) for path in paths]


def spoil(tmp_path: Path, **columns: float) -> tuple[Schema, SiteData, SiteData]:
    """A site, and its neighbour with one more training subject of two rows, whose cells are far out."""
    (path,) = write_toy_sites(tmp_path, sites=1, subjects=30)
    site = read_site(path, split_seed=0)
    header, *rows = (path / "manifest.csv").read_text().splitlines()
    newcomer = next(f"new-{n}" for n in range(100) if _is_trained_on(path, header, rows, f"new-{n}"))
    cells = {"person": newcomer, "sick": "1", "sex": "male", **{name: str(value) for name, value in columns.items()}}
    row = ",".join(cells.get(column, "") for column in header.split(","))
    (path / "manifest.csv").write_text("\n".join([header, *rows, row, row]))
    return merge_schemas([read_spec(path)]), site, read_site(path, split_seed=0)


def _is_trained_on(path: Path, header: str, rows: list[str], name: str) -> bool:
    row = ",".join({"person": name, "sick": "1", "sex": "male"}.get(column, "") for column in header.split(","))
    (path / "manifest.csv").write_text("\n".join([header, *rows, row]))
    site = read_site(path, split_seed=0)
    return str(site.split[site.subjects.index(name)]) == "train"


@pytest.mark.parametrize("value", [1e9, -1e9, 4.0, 0.0])
def test_one_subject_moves_the_sums_by_at_most_the_sensitivity(tmp_path: Path, value: float) -> None:
    schema, site, neighbour = spoil(tmp_path, crp=value, ldh=value, pulse=value, age=value)
    shift = normalisation_vector(neighbour, schema, "train") - normalisation_vector(site, schema, "train")
    assert np.linalg.norm(shift) <= normalisation_sensitivity(schema) + 1e-9
    assert shift.reshape(-1, 3)[:, 0].tolist() == [1.0] * (normalisation_length(schema) // 3)
    if value >= 1e9:
        assert np.linalg.norm(shift) == pytest.approx(normalisation_sensitivity(schema)), "and the bound is tight"


def test_released_sums_without_noise_give_the_subjects_mean_and_spread(toy: tuple[Schema, list[SiteData]]) -> None:
    schema, sites = toy
    normaliser = from_sums(schema, sum((normalisation_vector(s, schema, "train") for s in sites), np.zeros(12)))
    known = []
    for site in sites:
        if "labs" in site.readings:
            rows = site.rows_of("train")
            for subject in np.unique(site.row_subject[rows]):
                cells = site.readings["labs"].values[rows][site.row_subject[rows] == subject, 0]
                if np.isfinite(cells).any():
                    known.append(np.clip(np.nanmean(cells), -4, 4))
    assert normaliser.center["labs"][0] == pytest.approx(np.mean(known))
    assert normaliser.scale["labs"][0] == pytest.approx(np.std(known))


@pytest.mark.parametrize("noise", [-1e6, 0.0, 1e6])
def test_however_noisy_the_sums_the_scale_stays_within_the_public_bounds(
    toy: tuple[Schema, list[SiteData]], noise: float
) -> None:
    schema, _ = toy
    for column in range(3):
        sums = np.zeros(normalisation_length(schema))
        sums[column::3] = noise
        normaliser = from_sums(schema, sums)
        for name, spec in schema.tables.items():
            low, high = np.array([spec.bounds[column] for column in spec.columns]).reshape(-1, 2).T
            assert np.all((normaliser.center[name] >= low) & (normaliser.center[name] <= high))
            assert np.all((normaliser.scale[name] > 0) & (normaliser.scale[name] <= (high - low) / 2 + 1e-9))


def test_sums_of_another_length_are_refused(toy: tuple[Schema, list[SiteData]]) -> None:
    with pytest.raises(ValueError, match="12 normalisation sums were expected"):
        from_sums(toy[0], np.zeros(11))


def test_a_common_scale_needs_public_bounds(toy: tuple[Schema, list[SiteData]]) -> None:
    schema, sites = toy
    labs = schema.tables["labs"].model_copy(update={"bounds": {"crp": (-4.0, 4.0)}})
    unbounded = schema.model_copy(update={"modalities": {**schema.modalities, "labs": labs}})
    with pytest.raises(DataError, match=r"modality labs, column ldh: .*it has no public bounds"):
        normalisation_vector(sites[0], unbounded, "train")
    with pytest.raises(DataError, match="column ldh"):
        from_sums(unbounded, np.zeros(12))
    assert from_bounds(unbounded).scale["labs"].tolist() == [4.0, 1.0]


def test_features_are_cut_scaled_and_zero_where_nothing_was_measured(toy: tuple[Schema, list[SiteData]]) -> None:
    schema, _ = toy
    spec, normaliser = schema.tables["vitals"], from_bounds(schema)
    nan = np.nan
    raw = np.array([[1e9, -1e9, 1, 0], [nan, 2, 0, 1], [nan, nan, nan, nan]])
    found = features(raw, "vitals", spec, normaliser)
    np.testing.assert_allclose(found[0], [1, -1, 1, 1, 1, -1])
    np.testing.assert_allclose(found[1], [0, 0.5, 0, 1, -1, 1])
    assert not found[2].any()
    normaliser.scale["vitals"][:] = 1e-3
    assert np.abs(features(raw, "vitals", spec, normaliser)).max() == LARGEST_VALUE
