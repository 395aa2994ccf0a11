"""A whole training step, five ways: without privacy, ours, and three that others use."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from client.dp import part_rows
from client.train import add_noise
from common.bookkeeping.engine import part_sum
from common.bookkeeping.memory import reused_memory
from common.bookkeeping.rows import RowIndex
from common.privacy.noise import os_noise
from common.privacy.opacus_parts import load_opacus_package
from common.privacy.plan import PrivacyPlan
from simulations.bench.dp_models import Workload, row_losses

CLIP_NORM = 1.0
_LEARNING_RATE = 1e-3
Gradients = dict[str, Tensor]
Found = Callable[[], Gradients]


def trainable(model: nn.Module) -> Gradients:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@contextmanager
def plain(work: Workload) -> Iterator[Found]:
    """The gradient of the summed loss, nobody's clipped."""
    parameters = trainable(work.model)

    def found() -> Gradients:
        total = row_losses(work.model, work.inputs, work.labels).sum()
        return dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))

    yield found


@contextmanager
def ours(work: Workload) -> Iterator[Found]:
    """The book-keeping engine, in parts of as many rows as a site's training takes of a model of this size."""
    rows = part_rows(sum(part.numel() for part in trainable(work.model).values()), most=len(work.labels))
    parts = [
        (partial(row_losses, work.model, inputs, labels), RowIndex(torch.arange(len(labels))))
        for inputs, labels in zip(torch.split(work.inputs, rows), torch.split(work.labels, rows), strict=True)
    ]

    def found() -> Gradients:
        total = None
        for losses, index in parts:
            total = part_sum(work.model, losses, index, clip_norm=CLIP_NORM, onto=total).gradients
        return total or {}

    with reused_memory():
        yield found


@contextmanager
def opacus_hooks(work: Workload) -> Iterator[Found]:
    """Opacus' hooks: a gradient a row, then one clip over all parameters."""
    _load_opacus()
    from opacus.grad_sample.grad_sample_module import GradSampleModule  # noqa: PLC0415

    wrapped = GradSampleModule(work.model, loss_reduction="sum")
    parameters = trainable(work.model)

    def found() -> Gradients:
        torch.autograd.backward(row_losses(wrapped, work.inputs, work.labels).sum())
        gradients = {name: vars(parameter)["grad_sample"] for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad, vars(parameter)["grad_sample"] = None, None
        return _clipped(gradients)

    yield found
    wrapped.to_standard_module()


@contextmanager
def opacus_ghost(work: Workload) -> Iterator[Found]:
    """Opacus' ghost clipping: norms first, then a second backward pass of the weighted losses."""
    _load_opacus()
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (  # noqa: PLC0415
        GradSampleModuleFastGradientClipping,
    )

    wrapped = GradSampleModuleFastGradientClipping(
        work.model, loss_reduction="sum", max_grad_norm=CLIP_NORM, use_ghost_clipping=True
    )
    parameters = trainable(work.model)

    def found() -> Gradients:
        losses = row_losses(wrapped, work.inputs, work.labels)
        torch.autograd.backward(losses.sum(), retain_graph=True)
        factors = wrapped.get_clipping_coef()
        for parameter in parameters.values():
            parameter.grad = None
        wrapped.disable_hooks()
        torch.autograd.backward((losses * factors).sum())
        wrapped.enable_hooks()
        gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
        for parameter in parameters.values():
            parameter.grad = None
        return gradients

    yield found
    wrapped.to_standard_module()


@contextmanager
def func(work: Workload) -> Iterator[Found]:
    """`vmap` over `grad`: a gradient a row from functional transforms."""
    parameters = {name: parameter.detach() for name, parameter in trainable(work.model).items()}
    frozen = {name: part.detach() for name, part in work.model.named_parameters() if not part.requires_grad}

    def loss(own: Gradients, row: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(work.model, {**frozen, **own}, (row.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, label.unsqueeze(0))

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    yield lambda: _clipped(each(parameters, work.inputs, work.labels))


def row_by_row(work: Workload) -> Tensor:
    """The clipped sum of gradients that are each taken on its own: float64 [coordinate], and very slow."""
    parameters = trainable(work.model)
    losses = row_losses(work.model, work.inputs, work.labels)
    total = torch.zeros(sum(parameter.numel() for parameter in parameters.values()), dtype=torch.float64)
    for loss in losses:
        found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, materialize_grads=True)
        row = torch.cat([part.double().ravel() for part in found])
        total += row * (CLIP_NORM / row.norm()).clamp(max=1.0)
    return total


def step(work: Workload, found: Found, *, private: bool) -> None:
    """One step: gradients, noise where it is private, by the same code that a site's round runs, and an update."""
    gradients, parameters = found(), trainable(work.model)
    if private:
        gradients = add_noise(gradients, os_noise("bench", "bench", 0, "training"), "step", _plan(len(work.labels)))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.sub_(gradients[name].to(parameter.dtype), alpha=_LEARNING_RATE)


@cache
def _plan(rows: int) -> PrivacyPlan:
    """What the noise is scaled by."""
    return PrivacyPlan(
        epsilon=1.0,
        delta=1e-5,
        clip_norm=CLIP_NORM,
        noise_multiplier=1.0,
        sampling_rate=1.0,
        steps_per_round=1,
        rounds=1,
        divisor=float(rows),
        counts=(),
    )


def _load_opacus() -> None:
    """Opacus names parts of torch.distributed that its own package initialiser would have imported."""
    for name in ("fsdp", "tensor"):
        import_module(f"torch.distributed.{name}")
    load_opacus_package()


def _clipped(gradients: Gradients) -> Gradients:
    """Clip each row's gradients [row, ...] over all parameters together, and add them up."""
    norms = torch.stack([part.flatten(1).norm(dim=1) for part in gradients.values()]).norm(dim=0)
    factors = (CLIP_NORM / norms).clamp(max=1.0)
    return {name: torch.einsum("r,r...->...", factors, part) for name, part in gradients.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Opacus and torch have remarks on what the bench does on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


VARIANTS = {
    "non-private": plain,
    "ours": ours,
    "Opacus hooks": opacus_hooks,
    "Opacus ghost": opacus_ghost,
    "torch.func": func,
}
