"""The clipped sum: its guarantees, and what Opacus gets silently wrong in our use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from client.dp import Clipping, Engine, clipped_sum, part_rows, per_row_gradients
from common.data.batch import NOBODY, Batch, hide, parts_of, take
from common.models.outputs import Outputs
from tests.example_models import SCHEMA, TASK, Recipe, model_of, ragged_batch
from tests.reference_gradients import clipped_vector, one_subject, without

CLIPPING = Clipping(TASK, 0.3, 0.5)
ENGINES: tuple[Engine, ...] = ("bookkeeping", "opacus")


def test_an_empty_draw_gives_zeros_of_every_parameters_shape() -> None:
    model, batch = model_of(Recipe()), ragged_batch((1, 1))
    with per_row_gradients(model):
        found = clipped_sum(model, take(batch, torch.zeros(0, dtype=torch.int64)), CLIPPING)
    assert {name: part.shape for name, part in found.gradients.items()} == {
        name: part.shape for name, part in model.named_parameters()
    }
    assert all(not part.any() for part in found.gradients.values())
    assert found.num_nonfinite == 0


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 3e38])
def test_a_subject_whose_gradient_is_not_finite_contributes_zero_and_nobody_else_changes(bad: float) -> None:
    model, batch = model_of(Recipe()), ragged_batch((2, 1, 3), presence=1.0)
    values = batch.values["labs"].clone()
    values[batch.subjects == 1] = bad
    poisoned = replace(batch, values={**batch.values, "labs": values})
    with per_row_gradients(model):
        found = clipped_sum(model, poisoned, CLIPPING)
    assert found.num_nonfinite == 1
    vector = torch.cat([part.ravel() for part in found.gradients.values()])
    assert torch.allclose(vector, clipped_vector(model, without(batch, 1), CLIPPING), atol=1e-6)


def test_more_rows_buy_no_influence() -> None:
    model, batch = model_of(Recipe()), ragged_batch((1, 60))
    share = clipped_vector(model, batch, CLIPPING) - clipped_vector(model, without(batch, 1), CLIPPING)
    assert share.norm() <= CLIPPING.clip_norm * (1 + 1e-5)


def test_rows_go_through_the_model_in_parts_whose_shape_depends_on_no_record() -> None:
    for number in (1, 127, 128, 129, 400):
        parts = list(parts_of(ragged_batch((1,) * number), 128))
        assert {len(part) for part in parts} == {128}
        subjects = torch.cat([part.subjects for part in parts])
        assert len(subjects[subjects != NOBODY]) == number
    assert [part_rows(size) for size in (10, 100_000, 10_000_000)] == [128, 64, 16]


@pytest.mark.parametrize("rows", [(2,) * 150, (300, 1, 2), (127, 2, 300, 1), (1, 128, 128, 5)])
def test_subjects_whose_rows_lie_in_several_parts_are_clipped_once(rows: tuple[int, ...]) -> None:
    model, batch = model_of(Recipe(kind="additive")), ragged_batch(rows, time=1)
    alone = torch.stack([one_subject(model, batch, subject, CLIPPING) for subject in range(len(rows))]).sum(dim=0)
    assert torch.allclose(clipped_vector(model, batch, CLIPPING), alone, atol=1e-5)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_clip_norm_that_bounds_nothing_is_refused(clip_norm: float) -> None:
    model = model_of(Recipe())
    with per_row_gradients(model), pytest.raises(ValueError, match="clip_norm must be > 0"):
        clipped_sum(model, ragged_batch((1,)), replace(CLIPPING, clip_norm=clip_norm))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_hooks_leave_no_trace(engine: Engine) -> None:
    model, batch, clipping = model_of(Recipe()), ragged_batch((2, 1)), replace(CLIPPING, engine=engine)
    model.eval()
    modules = {name: set(vars(module)) for name, module in model.named_modules()}
    clipped_vector(model, batch, clipping)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == modules
    assert all(not vars(parameter) and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not model.training
    assert clipped_vector(model, batch, clipping).any(), "and they can be put on again"


def test_hooks_come_off_when_a_step_fails() -> None:
    model = model_of(Recipe())
    with pytest.raises(KeyError), per_row_gradients(model):
        clipped_sum(model, ragged_batch((1,)), replace(CLIPPING, task="nobody"))
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_is_left_from_a_step_in_which_an_encoder_saw_other_rows() -> None:
    """Opacus' ghost mode keeps the last step's norms of an encoder whose modality is absent."""
    model, batch = model_of(Recipe()), ragged_batch((2, 1, 3))
    alone = clipped_vector(model, hide(batch, ("ecg",)), CLIPPING)
    with per_row_gradients(model):
        clipped_sum(model, batch, CLIPPING)
        after = clipped_sum(model, hide(batch, ("ecg",)), CLIPPING).gradients
    assert torch.allclose(torch.cat([part.ravel() for part in after.values()]), alone, atol=1e-7)


def test_the_bound_holds_in_half_precision_too() -> None:
    """Opacus' ghost norms let 1.80 C through in bfloat16; ours are norms of the very gradients that are summed."""
    model, batch = model_of(Recipe()).to(torch.bfloat16), ragged_batch((1, 2, 1, 1), presence=1.0)
    half = replace(
        batch,
        values={name: value.to(torch.bfloat16) for name, value in batch.values.items()},
        seconds={name: value.to(torch.bfloat16) for name, value in batch.seconds.items()},
    )
    clipping = replace(CLIPPING, clip_norm=0.01)
    for subject in range(4):
        own = clipped_vector(model, take(half, half.subjects == subject), clipping)
        assert own.norm() <= clipping.clip_norm * (1 + 1e-9)


class Wrapped(nn.Module):
    """A model around `inner`, for models that we must refuse."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch: Batch) -> Outputs:
        return Outputs(self.inner(batch.values["ecg"][:, 0]), {}, {})


class WithBareParameter(nn.Module):
    """Opacus sends this whole module to functorch, which drops keyword arguments."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(features))
        self.linear = nn.Linear(features, 1)

    def forward(self, values: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(values + self.token))


class OwnLinear(nn.Linear):
    """A subclass may compute anything: its rule is not the Linear's."""


class FirstRowsOnly(nn.Module):
    """A sub-batch: per-row gradients of the wrong length."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)

    def forward(self, values: Tensor) -> Tensor:
        answers = self.linear(values[:2])
        return torch.cat([answers, torch.zeros(len(values) - 2, 1)])


class SkipsOne(nn.Module):
    """An encoder that no row goes through."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.used, self.skipped = nn.Linear(features, 1), nn.Linear(features, 1)

    def forward(self, values: Tensor) -> Tensor:
        return torch.as_tensor(self.used(values))


FEATURES = SCHEMA.tables["ecg"].num_features


@pytest.mark.parametrize(
    "inner",
    [
        WithBareParameter(FEATURES),
        OwnLinear(FEATURES, 1),
        nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 1)),
    ],
    ids=["bare parameter", "subclass", "batch norm"],
)
def test_a_model_without_exact_per_row_gradients_is_refused(inner: nn.Module) -> None:
    with (
        pytest.raises(ValueError, match=r"no exact per-row gradient|mixes the rows"),
        per_row_gradients(Wrapped(inner)),
    ):
        pytest.fail("the hooks must not go on")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_layer_whose_rows_could_be_anybodys_is_an_error(engine: Engine) -> None:
    model = Wrapped(FirstRowsOnly(FEATURES))
    with per_row_gradients(model), pytest.raises(ValueError, match=r"per-row gradients of 128 rows were expected"):
        clipped_sum(model, ragged_batch((3, 2)), replace(CLIPPING, engine=engine))


def test_a_layer_that_no_row_goes_through_gets_zeros_and_is_an_error_with_opacus() -> None:
    model = Wrapped(SkipsOne(FEATURES))
    with per_row_gradients(model):
        found = clipped_sum(model, ragged_batch((3, 2)), CLIPPING).gradients
    assert found["inner.used.weight"].any()
    assert not found["inner.skipped.weight"].any()
    with per_row_gradients(model), pytest.raises(ValueError, match=r"per-row gradients of 128 rows were expected"):
        clipped_sum(model, ragged_batch((3, 2)), replace(CLIPPING, engine="opacus"))


@pytest.mark.parametrize("rows", [(1, 2, 1, 3), (300, 1, 2)])
def test_both_engines_find_the_same_sum(rows: tuple[int, ...]) -> None:
    model, batch = model_of(Recipe()), ragged_batch(rows)
    found = [clipped_vector(model, batch, replace(CLIPPING, engine=engine)) for engine in ENGINES]
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_a_layer_that_is_called_twice_is_clipped_as_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 1)

        def forward(self, values: Tensor) -> Tensor:
            return torch.as_tensor(self.head(self.shared(torch.tanh(self.shared(values)))))

    torch.manual_seed(0)
    model, batch = Wrapped(Twice()), ragged_batch((2, 1, 1), presence=1.0)
    expected = torch.stack([one_subject(model, batch, subject, CLIPPING) for subject in range(3)]).sum(dim=0)
    assert torch.allclose(clipped_vector(model, batch, CLIPPING), expected, atol=1e-5)


def test_frozen_parameters_are_not_touched() -> None:
    model, batch = model_of(Recipe()), ragged_batch((2, 1))
    for parameter in model.get_submodule("encoders").parameters():
        parameter.requires_grad_(False)
    with per_row_gradients(model):
        found = clipped_sum(model, batch, CLIPPING).gradients
    assert found
    assert not any(name.startswith("encoders") for name in found)
