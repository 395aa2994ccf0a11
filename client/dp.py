"""The sum of clipped per-subject gradients: the one place where a subject's influence is bounded.

Per-row gradients come from Opacus' hooks. Everything that Opacus leaves to the caller, and gets silently wrong when the
caller does not know, is done or refused here: rows belong to subjects; a model with a parameter that no exact rule
covers is refused; a layer that saw fewer rows than the batch has, or none at all, is an error and never a wrong norm.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.data.batch import NOBODY, Batch, parts_of, take
from common.models.loss import per_example_loss
from common.privacy.opacus_parts import load_opacus_package

# Layers whose rule in Opacus is exact for any shape that we call them with. Anything else falls back to functorch,
# which drops keyword arguments and takes whole sub-trees: we refuse instead.
COVERED = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.Conv1d, nn.Conv2d)
_ROW_GRADIENTS_IN_MEMORY = 1 << 25  # numbers: 128 MiB as float32, twice that again while they are clipped
_FEWEST_ROWS, _MOST_ROWS = 16, 128


@dataclass(frozen=True)
class ClippedSum:
    """A sum over subjects of gradients clipped to `clip_norm`: clipped, not yet noised. It must not leave.

    Attributes:
        gradients: by parameter, float64, of the parameter's shape.
        num_nonfinite: subjects whose gradient was not finite and who contributed zero; private as well.
    """

    gradients: dict[str, Tensor]
    num_nonfinite: int


@dataclass(frozen=True)
class Clipping:
    """What a subject's gradient is of, how far it may reach, and how many rows go through the model together.

    `rows` of 0 is as many as `part_rows` gives.
    """

    task: str
    auxiliary_weight: float
    clip_norm: float
    rows: int = 0


@contextmanager
def per_row_gradients(model: nn.Module) -> Iterator[nn.Module]:
    """Attach the hooks that compute per-row gradients, and take all traces of them off again.

    Raises:
        ValueError: a trainable parameter of the model is covered by no exact rule.
    """
    refuse_uncovered(model)
    load_opacus_package()
    from opacus.grad_sample.grad_sample_module import GradSampleHooks  # noqa: PLC0415  (only where DP trains)

    training = model.training
    model.train()
    hooks = GradSampleHooks(model, loss_reduction="sum", strict=True)
    try:
        yield model
    finally:
        hooks.cleanup()
        for module in model.modules():
            for trace in ("activations", "max_batch_len"):
                module.__dict__.pop(trace, None)
        for parameter in model.parameters():
            parameter.grad = None
        model.train(training)


def clipped_sum(model: nn.Module, batch: Batch, clipping: Clipping) -> ClippedSum:
    """Sum the subjects' clipped gradients over a batch, inside `per_row_gradients`.

    A subject's loss is the mean over its rows in the batch, so its gradient is too; it is clipped once, jointly over
    all parameters. How many rows a subject has thus never buys influence.

    Args:
        model: the model, with its hooks on.
        batch: all rows of every subject that was drawn.
        clipping: task, auxiliary weight and clip norm.

    Guarantees:
        bounded: adding or removing one subject, with all its rows, moves the sum by at most clip_norm in L2 norm. Rows
            go through the model in parts of one fixed shape, so that it moves no other row's gradient, not by a
            rounding error either; what is left is rounding in float64, about 1e-15 of the sum.
        finite: a subject whose gradient is not finite contributes zero, and nobody else's contribution changes.
        empty: a batch without rows gives zeros.

    Raises:
        ValueError: clip_norm is not above 0, or a layer did not see every row of the batch exactly in its place.
    """
    if not 0 < clipping.clip_norm < float("inf"):
        raise ValueError(f"clip_norm must be > 0 and finite, got {clipping.clip_norm}")
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    size = sum(parameter.numel() for parameter in trainable.values())
    total, nonfinite = torch.zeros(size, dtype=torch.float64), 0
    for means in _mean_gradients(model, batch, clipping, rows=clipping.rows or part_rows(size)):
        norm = torch.linalg.vector_norm(means, dim=1)
        finite = torch.isfinite(norm)
        if not bool(finite.all()):
            means = torch.where(finite.unsqueeze(1), means, 0.0)  # noqa: PLW2901  (0 * inf would be NaN)
        total += torch.where(finite, (clipping.clip_norm / norm).clamp(max=1.0), 0.0) @ means
        nonfinite += int((~finite).sum())
    lengths = [parameter.numel() for parameter in trainable.values()]
    parts = zip(trainable.items(), torch.split(total, lengths), strict=True)
    return ClippedSum({name: part.view_as(parameter) for (name, parameter), part in parts}, nonfinite)


def part_rows(num_coordinates: int) -> int:
    """Count the rows that go through the model at once: a power of two that depends on the model's size and no record.

    `num_coordinates` is the number of trainable parameters.
    """
    limit = _ROW_GRADIENTS_IN_MEMORY // max(1, num_coordinates)
    return min(max(1 << max(limit, 1).bit_length() - 1, _FEWEST_ROWS), _MOST_ROWS)


def refuse_uncovered(model: nn.Module) -> None:
    """Check that per-row gradients will be exact.

    Raises:
        ValueError: a module with trainable parameters of its own is not of a covered type, or mixes rows.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{name or 'the model'} is a {type(module).__name__}, which mixes the rows of a batch")
        bare = [key for key, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
        if bare and type(module) not in COVERED:
            problem = f"parameter {bare[0]!r} of {name or 'the model'} ({type(module).__name__})"
            raise ValueError(
                f"{problem} has no exact per-row gradient: use one of {[kind.__name__ for kind in COVERED]}"
            )


def row_gradients(model: nn.Module, batch: Batch, clipping: Clipping) -> Tensor:
    """Per-row gradients of the summed loss: float32 [row, coordinate], all trainable parameters side by side."""
    with warnings.catch_warnings():
        # The hooks of a first layer fire without gradients of its input; Opacus needs none.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        loss = per_example_loss(model(batch), batch.labels[clipping.task], auxiliary_weight=clipping.auxiliary_weight)
        torch.autograd.backward(loss.sum())
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
        gradients = row_gradients(model, part, clipping).double()
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
