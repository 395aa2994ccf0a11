"""Names of blocks, and moving weights in and out of a model by block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.blocks import block_of, blocks_of, flatten, held_blocks, is_personal, load, modality_of
from common.seeds import numpy_generator, stream_seed, torch_generator
from tests.example_models import EVERY_RECIPE, Recipe, model_of


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=str)
def test_every_parameter_is_in_exactly_one_block(recipe: Recipe) -> None:
    model = model_of(recipe)
    found = blocks_of(model)
    assert sorted(name for names in found.values() for name in names) == sorted(
        name for name, value in model.named_parameters() if value.requires_grad
    )
    assert list(found) == sorted(found)


def test_blocks_are_called_by_part_and_modality() -> None:
    modalities = ("ecg", "labs", "note")
    assert set(blocks_of(model_of(Recipe()))) == {
        *(f"encoder/{name}" for name in modalities),
        *(f"auxiliary/{name}" for name in modalities),
        "fusion",
        "head/sick",
    }
    assert set(blocks_of(model_of(Recipe(kind="additive")))) == {*(f"logit/{name}" for name in modalities), "bias"}
    assert set(blocks_of(model_of(Recipe(auxiliary_weight=0.0)))) == {
        *(f"encoder/{name}" for name in modalities),
        "fusion",
        "head/sick",
    }


@pytest.mark.parametrize(
    "name", ["weight", "encoders.labs.weight", "towers.<labs>.weight", "fusion", "encoders.<labs>"]
)
def test_a_parameter_of_no_block_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="belongs to no block"):
        block_of(name)


def test_a_modality_may_be_called_like_a_task_or_a_method() -> None:
    assert block_of("encoders.<forward>.project.weight") == "encoder/forward"
    assert modality_of("head/labs") is None
    assert modality_of("logit/labs") == modality_of("encoder/labs") == modality_of("auxiliary/labs") == "labs"
    assert modality_of("fusion") is None


def test_a_site_holds_its_modalities_blocks_and_the_shared_ones() -> None:
    blocks = tuple(blocks_of(model_of(Recipe())))
    assert held_blocks(blocks, ("labs",)) == ("auxiliary/labs", "encoder/labs", "fusion", "head/sick")
    assert held_blocks(blocks, ("ecg", "labs", "note")) == blocks


@pytest.mark.parametrize(
    ("block", "personal", "stays"),
    [
        ("head/sick", ("head/sick",), True),
        ("head/sick", ("head",), True),
        ("head/sick", ("head/",), True),
        ("head/sickness", ("head/sick",), False),
        ("fusion", ("head", "fusion"), True),
        ("fusion", (), False),
    ],
)
def test_personal_blocks_are_named_singly_or_by_family(block: str, personal: tuple[str, ...], stays: bool) -> None:
    assert is_personal(block, personal) is stays


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(kind="additive"), Recipe(fusion="perceiver")], ids=str)
def test_loading_what_was_flattened_gives_the_same_model(recipe: Recipe) -> None:
    source, target = model_of(recipe, seed=1), model_of(recipe, seed=2)
    vectors = flatten(source, blocks_of(source))
    assert all(vector.dtype == np.float32 and vector.ndim == 1 for vector in vectors.values())
    load(target, vectors)
    for name, parameter in source.named_parameters():
        assert torch.equal(parameter, dict(target.named_parameters())[name])
    vectors["fusion" if "fusion" in vectors else "bias"][:] = 0
    assert any(bool(part.any()) for part in target.parameters()), "the model holds copies"


def test_blocks_that_are_not_given_stay() -> None:
    model, other = model_of(Recipe(), seed=1), model_of(Recipe(), seed=2)
    before = flatten(model, blocks_of(model))
    load(model, flatten(other, ("fusion",)))
    after = flatten(model, blocks_of(model))
    changed = {block for block in after if not np.array_equal(before[block], after[block])}
    assert changed == {"fusion"}


def test_a_wrong_block_changes_nothing() -> None:
    model = model_of(Recipe())
    before = flatten(model, blocks_of(model))
    good = before["fusion"] + 1
    with pytest.raises(ValueError, match="no block 'fusoin'"):
        load(model, {"fusion": good, "fusoin": good})
    with pytest.raises(ValueError, match="block head/sick has 9 parameters"):
        load(model, {"fusion": good, "head/sick": np.zeros(8, dtype=np.float32)})
    np.testing.assert_array_equal(flatten(model, ("fusion",))["fusion"], before["fusion"])


def test_streams_have_their_names_for_ever() -> None:
    assert stream_seed(0, "weights", "fusion") == 8311221891520841986
    assert (
        len({stream_seed(0, "a", "bc"), stream_seed(0, "ab", "c"), stream_seed(0, "abc"), stream_seed(1, "abc")}) == 4
    )
    assert stream_seed(0, "round", 1) != stream_seed(0, "round", "1")
    assert numpy_generator(3, "x").random() == numpy_generator(3, "x").random()
    assert torch.equal(
        torch.rand(3, generator=torch_generator(3, "x")), torch.rand(3, generator=torch_generator(3, "x"))
    )
