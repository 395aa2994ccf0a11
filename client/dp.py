"""The sum of clipped per-subject gradients: the one place where a subject's influence is bounded.

Two engines behind one call: `bookkeeping` is ours (common/bookkeeping); `opacus`, per-row gradients from Opacus' hooks,
is the reference and the fallback. Everything that Opacus leaves to the caller, and gets silently wrong when the caller
does not know, is done or refused here: rows belong to subjects; a model with a parameter that no exact rule covers is
refused; with Opacus, a layer that saw fewer rows than the batch has, or none, is an error and never a wrong norm.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from common.bookkeeping import engine
from common.bookkeeping.engine import ClippedSum
from common.bookkeeping.memory import reused_memory
from common.bookkeeping.rows import RowIndex
from common.bookkeeping.rules import layers_of
from common.data.batch import NOBODY, Batch, parts_of, take
from common.models.loss import row_losses
from common.objectives import NOT_PER_EXAMPLE, TASK_ONLY, Part
from common.privacy.opacus_parts import load_convolution_rule, load_opacus_package

# Layers whose rule in Opacus is exact for any shape that we call them with. Anything else falls back to functorch,
# which drops keyword arguments and takes whole sub-trees: we refuse instead.
_COVERED_BY_OPACUS = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.Conv1d, nn.Conv2d)
_ROW_GRADIENTS_IN_MEMORY = 1 << 23  # numbers: 32 MiB as float32; Opacus' are three times that while they are clipped
Engine = Literal["bookkeeping", "opacus"]
Gradients = dict[str, Tensor]
FEWEST_ROWS, MOST_ROWS = 16, 128


@dataclass(frozen=True)
class Clipping:
    """What a subject's gradient is of, how far it may reach, and how many rows go through the model together.

    `rows` of 0 is as many as `part_rows` gives; `engine` is the configuration's privacy.engine; `parts` are the
    objective's, with this round's weights.
    """

    task: str
    auxiliary_weight: float
    clip_norm: float
    rows: int = 0
    engine: Engine = "bookkeeping"
    parts: tuple[Part, ...] = TASK_ONLY


@contextmanager
def per_row_gradients(model: nn.Module) -> Iterator[nn.Module]:
    """Make a model ready for per-row gradients, and leave it as it was.

    Raises:
        ValueError: a trainable parameter of the model is covered by no exact rule.
    """
    layers_of(model)
    training = model.training
    model.train()
    try:
        with reused_memory():
            yield model
    finally:
        model.train(training)


def clipped_sum(model: nn.Module, batch: Batch, clipping: Clipping) -> ClippedSum:
    """Sum the subjects' clipped gradients over a batch, inside `per_row_gradients`.

    A subject's loss is the mean over its rows in the batch, so its gradient is too; it is clipped once, jointly over
    all parameters. How many rows a subject has thus never buys influence.

    Args:
        model: the model.
        batch: all rows of every subject that was drawn.
        clipping: task, auxiliary weight, clip norm and engine.

    Guarantees:
        bounded: adding or removing one subject, with all its rows, moves the sum by at most clip_norm in L2 norm. Rows
            go through the model in parts of one fixed shape, so that it moves no other row's gradient, not by a
            rounding error either; what is left is rounding in float64, about 1e-15 of the sum.
        finite: a subject whose gradient is not finite contributes zero, and nobody else's contribution changes.
        empty: a batch without rows gives zeros.

    Raises:
        ValueError: clip_norm is not above 0, a part of the objective compares rows with each other, or a layer did not
            see every row of the batch exactly in its place.
    """
    if not 0 < clipping.clip_norm < float("inf"):
        raise ValueError(f"clip_norm must be > 0 and finite, got {clipping.clip_norm}")
    mixing = [asked.kind for asked in clipping.parts if not asked.per_example]
    if mixing:
        raise ValueError(f"{mixing[0]} {NOT_PER_EXAMPLE}")
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    rows = clipping.rows or part_rows(sum(parameter.numel() for parameter in trainable.values()))
    total = {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in trainable.items()}
    nonfinite = 0
    for found in _SUMS[clipping.engine](model, batch, clipping, rows, total):
        nonfinite += found
    return ClippedSum(total, nonfinite)


def part_rows(num_coordinates: int, *, most: int = MOST_ROWS) -> int:
    """Count the rows that go through the model at once: a power of two that depends on the model's size and no record.

    `num_coordinates` is the number of trainable parameters.
    """
    limit = _ROW_GRADIENTS_IN_MEMORY // max(1, num_coordinates)
    return min(max(1 << max(limit, 1).bit_length() - 1, FEWEST_ROWS), most)


def shares_of(batch: Batch, rows: int, number: int) -> list[Batch]:
    """Deal a batch out to `number` processes, part by part in turn: every subject is whole in one share.

    The longest share has as many parts as all of them over `number`, rounded up: how long a step takes depends on how
    many parts there are, as in one process, and not on who is where.
    """
    dealt = list(whole_subjects(batch.subjects, rows))
    nobody = torch.zeros(0, dtype=torch.int64)
    return [take(batch, torch.cat([nobody, *dealt[place::number]])) for place in range(number)]


def row_gradients(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    """Per-row gradients of the summed loss: float32 [row, coordinate], all trainable parameters side by side."""
    if clipping.engine == "opacus":
        with _hooks(model):
            return _hooked_gradients(model, batch, clipping)
    alone = RowIndex(torch.arange(len(batch)))
    return engine.row_gradients(model, lambda: _losses(model, batch, clipping), alone)


def _losses(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    weight, parts = clipping.auxiliary_weight, clipping.parts
    return row_losses(model, batch, task=clipping.task, auxiliary_weight=weight, parts=parts)


def _booked_sums(model: nn.Module, batch: Batch, clipping: Clipping, rows: int, total: Gradients) -> Iterator[int]:
    """Add clipped sums of parts in which every subject is whole, and of each subject that is larger than a part."""
    for whose in whole_subjects(batch.subjects, rows):
        parts = list(parts_of(take(batch, whose), rows))
        norm = clipping.clip_norm if len(parts) == 1 else float("inf")
        sums = [
            engine.part_sum(
                model,
                partial(_losses, model, part, clipping),
                RowIndex(part.subjects),
                clip_norm=norm,
                onto=total if len(parts) == 1 else None,
            )
            for part in parts
        ]
        yield sums[0].num_nonfinite if len(parts) == 1 else _add_clipped_mean(sums, parts, clipping.clip_norm, total)


def whole_subjects(subjects: Tensor, rows: int) -> Iterator[Tensor]:
    """Give the rows of as many subjects as fit into a part together, or of one that does not fit into any."""
    order, start, filled = torch.argsort(subjects, stable=True), 0, 0
    for count in torch.unique(subjects, return_counts=True)[1].tolist():
        if filled and filled + count > rows:
            yield order[start : start + filled]
            start, filled = start + filled, 0
        filled += count
    if filled:
        yield order[start:]


def _add_clipped_mean(sums: list[ClippedSum], parts: list[Batch], clip_norm: float, total: Gradients) -> int:
    """Clip one subject's gradient that was computed in several parts, each the mean over the part's rows."""
    counts = [int((part.subjects != NOBODY).sum()) for part in parts]
    mean = {
        name: torch.stack([part.gradients[name] * count for part, count in zip(sums, counts, strict=True)]).sum(dim=0)
        / sum(counts)
        for name in sums[0].gradients
    }
    whole = torch.cat([part.ravel() for part in mean.values()])
    norm = engine.rounded_up(torch.linalg.vector_norm(whole), len(whole))
    if any(part.num_nonfinite for part in sums) or not bool(torch.isfinite(norm)):
        return 1
    factor = float((clip_norm / norm).clamp(max=1.0))
    for name, part in mean.items():
        total[name].add_(part, alpha=factor)
    return 0


@contextmanager
def _hooks(model: nn.Module) -> Iterator[None]:
    """Attach Opacus' hooks, and take all traces of them off again."""
    for name, module in model.named_modules():
        trainable = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if trainable and type(module) not in _COVERED_BY_OPACUS:
            raise ValueError(f"{name or 'the model'} ({type(module).__name__}): Opacus has no exact per-row gradient")
    if any(isinstance(module, nn.Conv1d | nn.Conv2d) for module in model.modules()):
        load_convolution_rule()
    load_opacus_package()
    from opacus.grad_sample.grad_sample_module import GradSampleHooks  # noqa: PLC0415  (only where DP trains)

    hooks = GradSampleHooks(model, loss_reduction="sum", strict=True)
    try:
        yield
    finally:
        hooks.cleanup()
        for module in model.modules():
            for trace in ("activations", "max_batch_len"):
                module.__dict__.pop(trace, None)
        for parameter in model.parameters():
            parameter.grad = None


def _hooked_sums(model: nn.Module, batch: Batch, clipping: Clipping, rows: int, total: Gradients) -> Iterator[int]:
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with _hooks(model):
        for means in _mean_gradients(model, batch, clipping, rows=rows):
            norm = torch.linalg.vector_norm(means, dim=1)
            finite = torch.isfinite(norm)
            if not bool(finite.all()):
                means = torch.where(finite.unsqueeze(1), means, 0.0)  # noqa: PLW2901  (0 * inf would be NaN)
            found = torch.where(finite, (clipping.clip_norm / norm).clamp(max=1.0), 0.0) @ means
            parts = torch.split(found, [parameter.numel() for parameter in trainable.values()])
            for name, part in zip(trainable, parts, strict=True):
                total[name] += part.view_as(trainable[name])
            yield int((~finite).sum())


def _hooked_gradients(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    with warnings.catch_warnings():
        # The hooks of a first layer fire without gradients of its input; Opacus needs none.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        torch.autograd.backward(_losses(model, batch, clipping).sum())
    found = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rows = vars(parameter)["grad_sample"]
        if not isinstance(rows, Tensor) or rows.shape != (len(batch), *parameter.shape):
            got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"parameter {name}: per-row gradients of {len(batch)} rows were expected, got {got}")
        found.append(rows.reshape(len(batch), -1))
        vars(parameter)["grad_sample"] = None
        parameter.grad = None
    return torch.cat(found, dim=1)


def _mean_gradients(model: nn.Module, batch: Batch, clipping: Clipping, *, rows: int) -> Iterator[Tensor]:
    """Average the rows' gradients over each subject's rows: float64 [subject, coordinate], some subjects at a time.

    Rows go through the model in parts of one shape, sorted by subject. A subject whose rows lie in two parts is carried
    over, and added up in the order of its rows: where the parts end, which others decide, makes no difference.
    """
    batch = take(batch, torch.argsort(batch.subjects, stable=True))
    counts = dict(zip(*(found.tolist() for found in torch.unique(batch.subjects, return_counts=True)), strict=True))
    carried: Tensor | None = None
    seen = 0
    for part in parts_of(batch, rows):
        gradients = _hooked_gradients(model, part, clipping).double()
        seen += len(part)
        subjects, place = torch.unique_consecutive(part.subjects, return_inverse=True)
        total = torch.zeros(len(subjects), gradients.shape[1], dtype=torch.float64)
        if carried is not None:
            total[0] = carried
        total.index_add_(0, place, gradients)
        open_ended = seen < len(batch) and bool(batch.subjects[seen] == part.subjects[-1])
        carried = total[-1].clone() if open_ended else None
        whole = [subject for subject in subjects.tolist() if subject != NOBODY][: -1 if open_ended else None]
        yield total[: len(whole)] / torch.tensor([counts[subject] for subject in whole]).unsqueeze(1)


_SUMS = {"bookkeeping": _booked_sums, "opacus": _hooked_sums}
