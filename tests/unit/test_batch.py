"""One batch: all modalities always there, hidden or held."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data.batch import Batch, assemble, hide, take
from common.data.folder import SiteData, read_site, read_spec
from common.data.normalise import from_bounds
from common.data.schema import Schema, merge_schemas
from tests.example_models import ragged_batch
from tests.toy_federation import write_toy_sites


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Schema, list[SiteData]]:
    paths = write_toy_sites(tmp_path_factory.mktemp("toy"), sites=2, subjects=20, lacking={"site-1": ("labs",)})
    return merge_schemas([read_spec(path) for path in paths]), [read_site(path, split_seed=0) for path in paths]


def assembled(toy: tuple[Schema, list[SiteData]], site: int) -> tuple[SiteData, Batch]:
    schema, sites = toy
    return sites[site], assemble(sites[site], schema, from_bounds(schema), sites[site].rows_of("train"))


@pytest.mark.parametrize("site", [0, 1])
def test_every_modality_of_the_schema_is_there_with_the_same_shape(
    toy: tuple[Schema, list[SiteData]], site: int
) -> None:
    data, batch = assembled(toy, site)
    rows = len(data.rows_of("train"))
    for name, spec in toy[0].tables.items():
        assert batch.values[name].shape == (rows, 1, spec.num_features)
        assert batch.values[name].dtype == torch.float32
        assert batch.mask[name].shape == batch.seconds[name].shape == (rows, 1)
        assert not batch.values[name][~batch.mask[name]].any()
        assert torch.isfinite(batch.values[name]).all()
    assert set(batch.labels) == {"sick"}
    assert set(batch.attributes) == {"sex", "age"}


def test_what_a_site_does_not_hold_is_masked_and_what_it_holds_is_not(toy: tuple[Schema, list[SiteData]]) -> None:
    site, batch = assembled(toy, 1)
    assert not batch.mask["labs"].any()
    assert batch.mask["vitals"].all()
    present = np.isfinite(site.readings["ward"].values).any(axis=1)[site.rows_of("train")]
    np.testing.assert_array_equal(batch.mask["ward"][:, 0].numpy(), present)


def test_labels_and_subjects_stay_with_their_rows(toy: tuple[Schema, list[SiteData]]) -> None:
    site, batch = assembled(toy, 0)
    rows = site.rows_of("train")
    np.testing.assert_array_equal(batch.labels["sick"].numpy(), site.labels["sick"][rows])
    np.testing.assert_array_equal(batch.subjects.numpy(), site.row_subject[rows])
    some = take(batch, torch.tensor([3, 1]))
    assert some.subjects.tolist() == [batch.subjects[3], batch.subjects[1]]
    assert torch.equal(some.values["vitals"], batch.values["vitals"][[3, 1]])


def test_hiding_keeps_shapes_and_shows_only_what_is_kept() -> None:
    batch = ragged_batch((2, 1))
    seen = hide(batch, ("ecg",))
    assert torch.equal(seen.values["ecg"], batch.values["ecg"])
    for name in ("labs", "note"):
        assert seen.values[name].shape == batch.values[name].shape
        assert not seen.values[name].any()
        assert not seen.mask[name].any()
    assert batch.mask["labs"].any() or batch.mask["note"].any(), "the batch itself is unchanged"


def test_hiding_all_but_an_unknown_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot keep smell: the batch has ecg, labs, note"):
        hide(ragged_batch((1,)), ("smell",))


def test_taking_nothing_gives_an_empty_batch() -> None:
    assert len(take(ragged_batch((2, 1)), torch.zeros(3, dtype=torch.bool))) == 0
