from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.train import LocalTraining, train_round
from common.data.batch import Batch
from common.models.model import build_model
from common.models.outputs import Paired
from common.privacy.noise import test_noise as noise_of_test
from simulations.retrieval import Ranks, ranks_of, together
from tests.captions import captioned, captions_config, sick_notes
from tests.example_models import ANCHOR, SCHEMA, TASK, Recipe, config_of, model_of, part_of, ragged_batch


def test_ranks_are_those_of_a_full_sort_and_ties_count_half() -> None:
    from simulations.retrieval import _places  # noqa: PLC0415  (the ranking itself, without a model)

    random = torch.Generator().manual_seed(0)
    query, target = (torch.nn.functional.normalize(torch.randn(7, 3, generator=random)) for _ in range(2))
    both = torch.tensor([True] * 6 + [False])
    there, back = _places(Paired(query, target, both))
    likeness = (query[:6] @ target[:6].T).double().numpy()
    expected = [list(np.argsort(-likeness[row])).index(row) + 1 for row in range(6)]
    assert there.tolist() == expected
    assert back.tolist() == [list(np.argsort(-likeness[:, row])).index(row) + 1 for row in range(6)]
    same = torch.ones(4, 3) / 3**0.5
    assert _places(Paired(same, same, torch.ones(4, dtype=torch.bool)))[0].tolist() == [2.5] * 4


def test_figures_say_the_galleries_size_and_every_site_has_its_own() -> None:
    one = Ranks({"a>b": np.array([1.0, 7.0])}, {"a>b": [2]})
    other = Ranks({"a>b": np.array([1.0, 2.0, 12.0, 1.0])}, {"a>b": [4]})
    found = together([one, Ranks({}, {}), other]).figures
    assert found["recall@1/a>b"] == pytest.approx(3 / 6)
    assert found["recall@5/a>b"] == pytest.approx(4 / 6)
    assert found["recall@10/a>b"] == pytest.approx(5 / 6)
    assert found["median_rank/a>b"] == 1.5
    assert found["gallery/a>b"] == 3


@pytest.mark.parametrize("part", [ANCHOR, part_of(kind="infonce", modalities=["labs", "ecg", "note"])])
def test_every_learnt_direction_is_ranked_and_a_lone_task_has_none(part: object) -> None:
    recipe = Recipe(parts=(part,), frozen=("encoder/ecg",))  # type: ignore[arg-type]
    batch = ragged_batch((1,) * 9)
    found = ranks_of(model_of(recipe), batch, recipe.all_parts, rows=7)
    pairs = recipe.parts[0].pairs  # type: ignore[union-attr]
    assert set(found.places) == {f"{a}>{b}" for one in pairs for a, b in (one, one[::-1])}
    for name, places in found.places.items():
        a, b = name.split(">")
        assert len(places) == int((batch.mask[a].any(dim=1) & batch.mask[b].any(dim=1)).sum())
    assert ranks_of(model_of(Recipe()), batch, Recipe().all_parts, rows=7).figures == {}


def test_captions_are_ranked_by_what_they_make_of_each_modality_alone() -> None:
    batch, parts = sick_notes(30), captions_config().objective.parts
    random = torch.Generator().manual_seed(0)
    batch.values["labs"].copy_(torch.randn(batch.values["labs"].shape, generator=random))
    batch.values["ward"].copy_(torch.randn(batch.values["ward"].shape, generator=random))
    found = ranks_of(captioned(seed=0, moved=0.3), batch, parts, rows=64)
    assert set(found.places) == {"labs>ward", "ward>labs"}, "the note is told, and has no side"
    assert found.galleries["labs>ward"] == [30]
    assert 3 < np.median(found.places["labs>ward"]) < 28, "nothing was learnt, and nothing goes together"
    other = replace(batch, values=batch.values | {"ward": batch.values["ward"].flip(0)})
    again = ranks_of(captioned(seed=0, moved=0.3), other, parts, rows=64)
    assert not np.array_equal(again.places["labs>ward"], found.places["labs>ward"])


def twins(rows: int, seed: int) -> Batch:
    """Records whose labs and ecg both follow from the same four hidden numbers."""
    batch, random = ragged_batch((1,) * rows, presence=1.0, time=1), torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 4, generator=random)
    values = dict(batch.values)
    for name, mixing in (("labs", 1), ("ecg", 2)):
        width = batch.values[name].shape[2]
        mixed = hidden @ torch.randn(4, width, generator=torch.Generator().manual_seed(mixing))
        values[name] = mixed.unsqueeze(1)
    return replace(batch, values=values)


@pytest.mark.parametrize(("related", "least", "most"), [(True, 0.3, 1.0), (False, 0.0, 0.25)])
def test_an_anchor_learns_to_find_partners_where_there_is_something_to_find(
    *, related: bool, least: float, most: float
) -> None:
    recipe = Recipe(parts=(part_of(kind="anchor", query="labs", target="ecg"),), frozen=("encoder/ecg",))
    model, learnt, held_out = build_model(config_of(recipe), SCHEMA, seed=0), twins(1000, 1), twins(50, 2)
    if not related:
        learnt = replace(learnt, values=learnt.values | {"ecg": learnt.values["ecg"].roll(1, dims=0)})
    assert ranks_of(model, held_out, recipe.all_parts, rows=64).figures["recall@5/labs>ecg"] < 0.25
    training = LocalTraining(TASK, 0.3, 0.0, 0.5, 0.0, 0.0, 150, 128, 0, "here", 1, None, parts=recipe.all_parts)
    train_round(model, learnt, training, noise_of_test(0, "here", 1, "training"))
    found = ranks_of(model, held_out, recipe.all_parts, rows=64).figures
    assert found["gallery/labs>ecg"] == 50
    assert least <= found["recall@5/labs>ecg"] <= most
