"""Whatever a model does with what its layers give, each subject's gradient is the true one, and nothing is left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import Thread

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from common.bookkeeping.engine import part_sum
from common.bookkeeping.memory import begin_part, buffer, reused_memory
from common.bookkeeping.rows import RowIndex, chunks_of, for_rows, take_rows
from tests.layer_models import WIDTH, losses_of, one_at_a_time, summed, values_of

SUBJECTS = torch.tensor([0, 1, 2, 1, 0, 3, 3, 4])
CLIP_NORM = 0.5


class Twice(nn.Module):
    """Two layers over tokens, and in between whatever a test does."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.between = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), between

    def forward(self, values: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.between(self.first, values)).mean(dim=1))


def _scaled_on_the_way_back(layer: nn.Module, values: Tensor) -> Tensor:
    hidden: Tensor = layer(torch.tanh(layer(values)))
    torch.as_tensor(hidden).register_hook(lambda gradient: 3 * gradient)  # type: ignore[no-untyped-call]
    return hidden


def _overwritten_in_its_place(layer: nn.Module, values: Tensor) -> Tensor:
    return functional.relu(layer(values), inplace=True)


def _used_and_then_overwritten(layer: nn.Module, values: Tensor) -> Tensor:
    hidden = layer(values)
    before = hidden * 1.5
    return torch.as_tensor(hidden.mul_(2) + before)


def _partly_overwritten(layer: nn.Module, values: Tensor) -> Tensor:
    hidden: Tensor = layer(values)
    hidden[:, 1:].mul_(-2)
    return hidden


def _in_two_checkpoints(layer: nn.Module, values: Tensor) -> Tensor:
    def inner(seen: Tensor) -> Tensor:
        return torch.tanh(torch.as_tensor(checkpoint(layer, torch.tanh(seen), use_reentrant=False)))

    return torch.as_tensor(checkpoint(inner, values, use_reentrant=False))


def _some_rows_in_a_checkpoint(layer: nn.Module, values: Tensor) -> Tensor:
    whole = values.clone()
    for rows in chunks_of(values[:, 0, 0] > 0, 2):
        with for_rows(rows):
            found = torch.as_tensor(checkpoint(layer, take_rows(values, rows), use_reentrant=False))
        whole = whole.index_add(0, rows[rows >= 0], torch.tanh(found[rows >= 0]))
    return whole


def _each_row_twice_in_a_call(layer: nn.Module, values: Tensor) -> Tensor:
    rows = torch.arange(len(values)).repeat_interleave(2)
    with for_rows(rows):
        found: Tensor = torch.tanh(layer(values[rows] + torch.tensor([0.0, 1.0]).repeat(len(values)).view(-1, 1, 1)))
    return found.view(-1, 2, *found.shape[1:]).prod(dim=1)


def _one_answer_thrown_away(layer: nn.Module, values: Tensor) -> Tensor:
    layer(values + 1)
    return torch.as_tensor(layer(values) + layer(2 * values).detach())


def _after_itself(layer: nn.Module, values: Tensor) -> Tensor:
    return torch.as_tensor(layer(torch.tanh(layer(values))))


BETWEEN = {
    found.__name__.strip("_").replace("_", " "): found
    for found in (
        _scaled_on_the_way_back,
        _overwritten_in_its_place,
        _used_and_then_overwritten,
        _partly_overwritten,
        _in_two_checkpoints,
        _some_rows_in_a_checkpoint,
        _each_row_twice_in_a_call,
        _one_answer_thrown_away,
        _after_itself,
    )
}


@pytest.mark.parametrize("name", BETWEEN)
def test_the_sum_is_the_true_one_whatever_becomes_of_an_answer(name: str) -> None:
    model, values = Twice(BETWEEN[name]), values_of()
    clip_norm = float(one_at_a_time(model, values, SUBJECTS, 1e9).norm(dim=1).median())
    expected = one_at_a_time(model, values, SUBJECTS, clip_norm).sum(dim=0)
    assert torch.allclose(summed(model, values, SUBJECTS, clip_norm), expected, atol=1e-5 * clip_norm)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_what_a_hook_of_the_models_own_does_to_a_gradient_is_in_the_sum() -> None:
    model, values = Twice(lambda layer, seen: torch.tanh(layer(seen))), values_of()
    plain = summed(model, values, SUBJECTS, 1e3)
    model.first.register_full_backward_pre_hook(lambda _module, above: tuple(2 * part for part in above))  # type: ignore[attr-defined]
    twice = summed(model, values, SUBJECTS, 1e3)
    first = WIDTH * WIDTH + WIDTH
    assert torch.allclose(twice[:first], 2 * plain[:first], atol=1e-6)
    assert torch.allclose(twice[first:], plain[first:], atol=1e-6)


def test_a_hook_on_a_parameter_is_refused() -> None:
    """It changes the gradient of the whole batch, which is never there."""
    model = Twice(lambda layer, seen: layer(seen))
    hook = torch.as_tensor(model.last.weight).register_hook(lambda gradient: 2 * gradient)  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"'weight' of last .* has a hook"):
        summed(model, values_of(), SUBJECTS, CLIP_NORM)
    hook.remove()
    assert summed(model, values_of(), SUBJECTS, CLIP_NORM).any(), "the control"


def test_a_hook_that_may_change_every_modules_answer_is_refused() -> None:
    """It comes before ours, so that what we would see is not what the layer gave."""
    model = Twice(lambda layer, seen: layer(seen))
    hook = nn.modules.module.register_module_forward_hook(lambda _module, _given, answer: 2 * answer)
    try:
        with pytest.raises(ValueError, match="hook for all modules"):
            summed(model, values_of(), SUBJECTS, CLIP_NORM)
    finally:
        hook.remove()
    assert summed(model, values_of(), SUBJECTS, CLIP_NORM).any(), "the control"


def test_a_layer_with_a_forward_of_its_own_is_refused() -> None:
    model = Twice(lambda layer, seen: layer(seen))
    vars(model.first)["forward"] = lambda seen: functional.linear(seen, 2 * model.first.weight, model.first.bias)
    with pytest.raises(ValueError, match=r"first .* has a forward of its own"):
        summed(model, values_of(), SUBJECTS, CLIP_NORM)


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_that_a_part_computed_outlives_it(*, broken: bool) -> None:
    """Its graph must not hold itself in a circle, through what was hooked into it: the collector may come late."""
    kept: list[weakref.ref[Tensor]] = []

    def between(layer: nn.Module, values: Tensor) -> Tensor:
        seen = torch.tanh(layer(values))
        kept.append(weakref.ref(seen))
        return torch.tanh(layer(seen))

    def losses() -> Tensor:
        found = losses_of(model, values_of())
        if broken:
            last_seen[0].mul_(2)
        last_seen.clear()
        return found

    model, last_seen = Twice(between), list[Tensor]()
    model.last.register_forward_pre_hook(lambda _module, given: last_seen.extend(given))
    gc.collect()
    gc.disable()
    try:
        with reused_memory(), suppress(ValueError):
            part_sum(model, losses, RowIndex(SUBJECTS), clip_norm=CLIP_NORM)
            assert not broken
        assert kept[0]() is None
    finally:
        gc.enable()


class Shared(nn.Module):
    """Two layers of one token whose answers are added, so that autograd gives both the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lowest, self.other, self.last = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, values: Tensor) -> Tensor:
        seen = torch.tanh(self.lowest(values[:, 0]))
        beside = torch.tanh(self.other(seen))
        torch.as_tensor(beside).register_hook(lambda gradient: gradient.mul_(1e3))  # type: ignore[no-untyped-call]
        return torch.as_tensor(self.last(seen) + beside)


def test_a_gradient_that_a_hook_overwrites_after_we_saw_it_is_clipped_as_it_is_summed() -> None:
    model, values = Shared(), values_of()
    for one in range(8):
        only = torch.where(torch.arange(8) == one, 0, -1)
        assert summed(model, values, only, CLIP_NORM).norm() <= CLIP_NORM * (1 + 1e-9)


def test_rows_that_are_overwritten_after_the_call_stay_those_of_the_call() -> None:
    """Whoever keeps one index for all chunks, or wraps a numpy array, writes over what for_rows was given."""
    rows = torch.arange(8)
    model = Twice(lambda layer, seen: seen)

    def losses() -> Tensor:
        rows.copy_(torch.arange(8))
        with for_rows(rows):
            found = losses_of(model, values_of())
        rows.data.zero_()
        return found

    found = part_sum(model, losses, RowIndex(torch.arange(8)), clip_norm=CLIP_NORM).gradients
    expected = part_sum(model, lambda: losses_of(model, values_of()), RowIndex(torch.arange(8)), clip_norm=CLIP_NORM)
    assert all(torch.allclose(part, expected.gradients[name]) for name, part in found.items())


def test_rows_that_are_overwritten_before_the_call_are_refused() -> None:
    rows = torch.arange(8)

    def between(layer: nn.Module, values: Tensor) -> Tensor:
        with for_rows(rows):
            rows.copy_(rows.flip(0))
            return torch.as_tensor(layer(values))

    with pytest.raises(ValueError, match="were overwritten"):
        summed(Twice(between), values_of(), SUBJECTS, CLIP_NORM)


def test_a_thread_with_a_copy_of_the_context_gets_memory_of_its_own() -> None:
    found: list[Tensor] = []
    with reused_memory():
        own = buffer((64,), torch.float32)
        begin_part()
        other = Thread(target=copy_context().run, args=(lambda: found.append(buffer((64,), torch.float32)),))
        other.start()
        other.join()
        assert found[0].data_ptr() != own.data_ptr()
        assert buffer((64,), torch.float32).data_ptr() == own.data_ptr(), "the control: here it is used again"


def test_a_gradient_whose_square_overflows_float32_is_clipped_and_moves_nobody_else() -> None:
    torch.manual_seed(0)
    model, values, everyone = nn.Linear(300, 2), torch.randn(8, 300), torch.arange(8)
    huge = values.clone()
    huge[3] *= 1e22

    def vector(seen: Tensor, subjects: Tensor) -> Tensor:
        found = part_sum(model, lambda: (model(seen) * 1e3).sum(dim=1), RowIndex(subjects), clip_norm=CLIP_NORM)
        assert found.num_nonfinite == 0
        return torch.cat([part.ravel() for part in found.gradients.values()])

    without = vector(values, torch.where(everyone == 3, -1, everyone))
    share = vector(huge, everyone) - without
    assert CLIP_NORM * (1 - 1e-4) <= share.norm() <= CLIP_NORM * (1 + 1e-9)


class Tied(nn.Module):
    """A weight that is a table of words too, which only rows with a word look up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(4, WIDTH), nn.Linear(WIDTH, 4, bias=False)
        self.head.weight = self.words.weight

    def forward(self, values: Tensor) -> Tensor:
        answers = values.new_zeros(len(values), 4)
        read, has_word = (values[:, 0, place] > 0 for place in (0, 1))
        for rows in chunks_of(read, 2):
            with for_rows(rows):
                answers = answers.index_add(0, rows[rows >= 0], self.head(take_rows(values, rows)[:, 1])[rows >= 0])
        for rows in chunks_of(has_word, 2):
            with for_rows(rows):
                found = self.words((take_rows(values, rows)[:, 0, 2] > 0).long()).sum(dim=1, keepdim=True)
            answers = answers.index_add(0, rows[rows >= 0], found[rows >= 0].expand(-1, 4))
        return answers


def test_whether_another_subject_uses_a_shared_weight_in_both_ways_changes_no_bit_of_ones_own() -> None:
    model, values, everyone = Tied(), values_of(), torch.arange(8)
    values[:, 0, :2] = -1.0
    values[2, 0, 0] = values[5, 0, 1] = values[6, 0, 0] = values[6, 0, 1] = 1.0  # reads, looks up, does both
    for one in (2, 5):
        only = torch.where(everyone == one, everyone, -1)
        without = values.clone()
        without[6] = 0.0
        assert torch.equal(summed(model, values, only, CLIP_NORM), summed(model, without, only, CLIP_NORM))
    both = one_at_a_time(model, values, everyone, CLIP_NORM).sum(dim=0)
    assert torch.allclose(summed(model, values, everyone, CLIP_NORM), both, atol=1e-6)
