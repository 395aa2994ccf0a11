"""What the engine refuses because it would not be exact, and what Opacus gets wrong silently and we do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from common.bookkeeping.engine import clipped_sum
from common.bookkeeping.memory import reused_memory
from common.bookkeeping.rows import RowIndex, for_rows
from common.privacy.opacus_parts import load_opacus_package
from tests.layer_models import LAYERS, WIDTH, layer_model, one_at_a_time, summed, values_of

SUBJECTS = torch.tensor([0, 1, 2, 1, 0, 3, 3, 4])


class Using(nn.Module):
    """A linear layer and an embedding, used in some way of a test's own."""

    def __init__(self, use: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.use = nn.Linear(WIDTH, WIDTH), use

    def forward(self, values: Tensor) -> Tensor:
        return self.use(self.linear, values)


def _overwritten(linear: nn.Linear, values: Tensor) -> Tensor:
    seen = values.clone()
    answer = linear(seen)
    seen.mul_(2)
    return torch.as_tensor(answer.sum(dim=1))


def _without_gradients(linear: nn.Linear, values: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = linear(values)
    return torch.as_tensor(linear(hidden).sum(dim=1))


def _beyond_the_part(linear: nn.Linear, values: Tensor) -> Tensor:
    with for_rows(torch.arange(1, 9)):
        return torch.as_tensor(linear(values).sum(dim=1))


USES: dict[str, tuple[Callable[[nn.Linear, Tensor], Tensor], str]] = {
    "by hand": (lambda linear, values: functional.linear(values, linear.weight).sum(dim=1), "is used 1 times, 0"),
    "once by hand": (
        lambda linear, values: (linear(values) + values @ linear.weight).sum(dim=1),
        "weight is used 2 times, 1",
    ),
    "some rows": (
        lambda linear, values: functional.pad(linear(values[:2]).sum(1), (0, 0, 0, 6)),
        "8 rows were expected",
    ),
    "tokens as rows": (lambda linear, values: linear(values.flatten(0, 1)).view(8, -1), "8 rows were expected"),
    "overwritten": (_overwritten, "was overwritten"),
    "without gradients": (_without_gradients, "ran without gradients"),
    "hidden by a checkpoint": (
        lambda linear, values: checkpoint(linear, values.requires_grad_(), use_reentrant=True).sum(dim=1),
        "ran without gradients",
    ),
    "rows beyond the part": (_beyond_the_part, "beyond the part's 8"),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16 autocast"])
def test_a_use_of_a_parameter_that_no_call_accounts_for_is_refused(name: str, half: bool) -> None:
    use, problem = USES[name]
    with pytest.raises(ValueError, match=problem), torch.autocast("cpu", torch.bfloat16, enabled=half):
        summed(Using(use), values_of(), SUBJECTS, 0.5)


def test_a_checkpoint_that_keeps_the_graph_is_right() -> None:
    model = Using(lambda linear, values: checkpoint(linear, values, use_reentrant=False).mean(dim=1))
    expected = one_at_a_time(model, values_of(), SUBJECTS, 0.5).sum(dim=0)
    assert torch.allclose(summed(model, values_of(), SUBJECTS, 0.5), expected, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MultiheadAttention(WIDTH, 2),
        nn.BatchNorm1d(WIDTH),
        nn.Embedding(3, WIDTH, max_norm=1.0),
        nn.Embedding(3, WIDTH, scale_grad_by_freq=True),
        weight_norm(nn.Linear(WIDTH, WIDTH)),
        nn.PReLU(),
    ],
    ids=["attention", "batch norm", "max_norm", "by frequency", "weight_norm", "prelu"],
)
def test_a_layer_without_an_exact_rule_is_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="odd"):
        clipped_sum(nn.ModuleDict({"odd": layer}), lambda: torch.zeros(8), RowIndex(SUBJECTS), clip_norm=1.0)


@pytest.mark.slow
def test_a_compiled_model_is_refused() -> None:
    """Its layers' calls are fused, and no hook sees them."""
    model = layer_model("wide")
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="is compiled"):
        summed(model, values_of(), SUBJECTS, 0.5)
    around = nn.Sequential(nn.Identity())
    around.add_module("_orig_mod", layer_model("wide"))
    with pytest.raises(ValueError, match="is compiled"):
        summed(around, values_of(), SUBJECTS, 0.5)


@pytest.mark.parametrize("name", LAYERS)
def test_memory_that_is_used_again_changes_no_number_and_no_earlier_sum(name: str) -> None:
    model, values = layer_model(name), values_of()
    alone = summed(model, values, SUBJECTS, 0.5)
    with reused_memory():
        first = summed(model, values, SUBJECTS, 0.5)
        other = summed(model, -values, SUBJECTS, 0.5)
        again = summed(model, values, SUBJECTS, 0.5)
    assert torch.equal(first, alone)
    assert torch.equal(again, alone)
    assert not torch.equal(other, alone)


def test_no_hook_and_no_gradient_is_left() -> None:
    model = layer_model("wide")
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    summed(model, values_of(), SUBJECTS, 0.5)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_layers_are_not_gone_back_through_below_the_first_trainable_one() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.head = nn.Linear(WIDTH, WIDTH).requires_grad_(False), nn.Linear(WIDTH, 3)
            self.outputs: list[Tensor] = []

        def forward(self, values: Tensor) -> Tensor:
            self.outputs.append(self.frozen(values))
            return torch.as_tensor(self.head(self.outputs[-1]).mean(dim=1))

    model = Adapted()
    summed(model, values_of(), SUBJECTS, 0.5)
    assert not model.outputs[-1].requires_grad


def opacus_norms(model: nn.Module, values: Tensor) -> Tensor:
    """The norms of Opacus' per-row gradients, taken by position as its optimizer does: [row]."""
    load_opacus_package()
    from opacus.grad_sample.grad_sample_module import GradSampleHooks  # noqa: PLC0415

    hooks = GradSampleHooks(model, loss_reduction="sum", strict=True)
    try:
        torch.autograd.backward(model(values).square().sum())
        found = [vars(part)["grad_sample"].flatten(1) for part in model.parameters() if part.requires_grad]
    finally:
        hooks.cleanup()
    norms: Tensor = torch.linalg.vector_norm(torch.cat(found, dim=1), dim=1)
    return norms


class Packed(nn.Module):
    """An encoder that sees the rows in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, values: Tensor) -> Tensor:
        order = torch.argsort(values[:, 0, 0])
        with for_rows(order):
            tokens = self.encoder(values[order])
        return torch.as_tensor(self.head(torch.tanh(tokens[torch.argsort(order)]).mean(dim=1)))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_rows_are_matched_by_subject_where_opacus_matches_them_by_position() -> None:
    torch.manual_seed(0)
    model, values, everyone = Packed(), values_of(), torch.arange(8)
    true = one_at_a_time(model, values, everyone, 1e9).norm(dim=1)
    positional = opacus_norms(model, values).double()
    assert (true / positional).max() > 1.05, "the control: a clip by these norms lets more than C through"
    expected = one_at_a_time(model, values, everyone, 0.1).sum(dim=0)
    assert torch.allclose(summed(model, values, everyone, 0.1), expected, atol=1e-6)


def test_a_modality_that_is_gone_from_a_batch_leaves_nothing_of_the_batch_before() -> None:
    model, values = layer_model("missing"), values_of()
    nobody_has_it = torch.cat([-values[:, :1].abs(), values[:, 1:]], dim=1)
    with reused_memory():
        summed(model, values, SUBJECTS, 0.5)
        after = summed(model, nobody_has_it, SUBJECTS, 0.5)
    assert torch.allclose(after, one_at_a_time(model, nobody_has_it, SUBJECTS, 0.5).sum(dim=0), atol=1e-5)
