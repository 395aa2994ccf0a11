"""A run's own training step, tried on subjects that do not exist: what it shows of one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from client.augment import NOTHING_ALTERED
from client.hiding import NOTHING_HIDDEN
from client.shared_noise import shared_step
from client.train import LocalTraining, labelled_rows, noisy_step, one_process
from common.blocks import blocks_of
from common.data.batch import Batch, take
from common.data.schema import Schema
from common.models.additive import AdditiveModel
from common.objectives import TASK_ONLY
from common.privacy.lattice import fit_lattice
from common.privacy.noise import NoiseSource, os_noise
from common.privacy.plan import PrivacyPlan
from common.privacy.step_audit import Observed

Step = Callable[[Batch, NoiseSource, int], Tensor]
Sources = Callable[[int], NoiseSource]

_TASK, _FEATURES, _RECORDS = "canary", 24, 2
_WANTED_SHIFT, _MOST_CANARIES = 2.0, 32
_STEEP = 8.0  # clip norms that a canary's gradient is longer than, or more


@contextmanager
def own_step(model: nn.Module, training: LocalTraining, *, honest: int) -> Iterator[Step]:
    """Open the step that a round takes, as a function of rows, noise and the step's number.

    It gives the noised sum, float64 [coordinate], block by block: a step's result times the plan's public divisor, or a
    site's share in real numbers where `honest` sites share the noise out.

    Raises:
        ValueError: there is no plan, or the model has a parameter that cannot be clipped exactly.
    """
    plan = plan_of(training)
    if plan.lattice is not None:

        def shared(batch: Batch, noise: NoiseSource, _number: int) -> Tensor:
            share = shared_step(model, batch, training, noise, honest=honest)
            return torch.from_numpy(np.concatenate(list(share.values())) * plan.step)

        yield shared
        return
    with one_process(model, training) as add_up:

        def own(batch: Batch, noise: NoiseSource, number: int) -> Tensor:
            found = noisy_step(add_up, labelled_rows(batch, training), training, noise, number)
            names = (name for block in blocks_of(model).values() for name in block)
            return torch.cat([found[name].ravel() for name in names]) * plan.divisor

        yield own


def plan_of(training: LocalTraining) -> PrivacyPlan:
    """A training's plan.

    Raises:
        ValueError: it has none.
    """
    if training.plan is None:
        raise ValueError("a private step needs a plan")
    return training.plan


def nobody(batch: Batch) -> Batch:
    """The same kind of batch with no row in it."""
    return take(batch, torch.zeros(0, dtype=torch.int64))


def num_canaries(plan: PrivacyPlan) -> int:
    """Count the canaries with whom fewest observations say most: their common shift is about two standard deviations.

    They are in or out together, so what they show is at most as many times what one shows (Dong, Roth, Su 2019, on
    groups).
    """
    return min(max(2, round(_WANTED_SHIFT * plan.noise_multiplier)), _MOST_CANARIES)


def fresh(number: int) -> NoiseSource:
    """Noise as a round gets it."""
    return os_noise("audit", "", number, "step")


def observe(training: LocalTraining, *, observations: int, source: Sources = fresh) -> Observed:
    """Take a run's steps with canaries and without, and look at three numbers of each.

    The model is a small one of two modalities, where a step takes a millisecond; sampling, clipping, noise and division
    are the run's own. Each canary has two records, steep in both modalities. Looked at are the step along the canaries'
    direction, its size across it, and how it differs along it from the next step, to which the canaries add nothing.

    Raises:
        ValueError: the canaries leave no trace in a step.
    """
    number = num_canaries(plan_of(training))
    model, canaries, training = _small_problem(training, number)
    with own_step(model, training, honest=1) as step:  # as if this site carried all of the noise
        same, empty = source(-1), nobody(canaries)
        direction = step(canaries, same, 0) - step(empty, same, 0)
        if not 0 < float(direction.norm()) < math.inf:
            raise ValueError("canaries leave no trace in a step, or an infinite one")
        direction /= direction.norm()

        def look(batch: Batch, place: int) -> tuple[float, float, float]:
            first_noise = source(place)
            # Shares of noise are drawn once a round, so the next one is another round's.
            next_noise = first_noise if plan_of(training).lattice is None else source(place + 1)
            first, following = step(batch, first_noise, 0), step(empty, next_noise, 1)
            along = float(first @ direction)
            across = first - along * direction
            return along, float(across.norm()), along - float(following @ direction)

        sides = [
            np.array([look(batch, 4 * place + 2 * side) for place in range(observations)])
            for side, batch in enumerate((canaries, empty))
        ]
    return Observed(*sides)


def _small_problem(training: LocalTraining, canaries: int) -> tuple[nn.Module, Batch, LocalTraining]:
    """A small model, the canaries' rows, and the run's step for them, in which everybody is drawn."""
    plan = plan_of(training)
    with torch.random.fork_rng(devices=[]):
        model = AdditiveModel(_schema(), _TASK)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # a chance of 1/2 for everyone: a gradient is half of the row
    coordinates = sum(parameter.numel() for parameter in model.parameters())
    lattice = plan.lattice and fit_lattice(
        sites=plan.lattice.sites,
        coordinates=coordinates,
        divisor=plan.divisor,
        noise_multiplier=plan.noise_multiplier,
        rounds=plan.rounds,
    )
    plan = replace(plan, sampling_rate=1.0, steps_per_round=1, lattice=lattice)
    rows = 1 << (_RECORDS * canaries - 1).bit_length()
    shown = replace(training, modality_dropout=0.0, hiding=NOTHING_HIDDEN, altering=NOTHING_ALTERED, reads=())
    alone = replace(shown, task=_TASK, auxiliary_weight=0.0, parts=TASK_ONLY)
    small = replace(alone, steps=1, plan=plan, rows=rows)
    return model, _rows(canaries, size=_STEEP * max(1.0, plan.clip_norm)), small


def _schema() -> Schema:
    columns = {name: [f"{name} {number}" for number in range(_FEATURES)] for name in ("left", "right")}
    return Schema.model_validate(
        {
            "modalities": {name: {"kind": "tabular", "columns": named} for name, named in columns.items()},
            "tasks": {_TASK: {"kind": "binary", "column": _TASK}},
            "attributes": {},
        }
    )


def _rows(canaries: int, *, size: float) -> Batch:
    """Subjects who are all the same: two records each, almost alike, so that two clipped apart reach twice as far."""
    random = torch.Generator().manual_seed(0)
    rows = _RECORDS * canaries
    values = {}
    for name, spec in _schema().tables.items():
        one = torch.randn(1, spec.num_features, generator=random).sign()
        apart = 0.1 * torch.randn(_RECORDS, spec.num_features, generator=random)
        values[name] = (size * (one + apart)).repeat(canaries, 1).unsqueeze(1)
    seen = torch.ones(rows, 1, dtype=torch.bool)
    labels = torch.ones(rows, dtype=torch.int64)
    subjects = torch.arange(canaries).repeat_interleave(_RECORDS)
    return Batch(
        values, dict.fromkeys(values, seen), dict.fromkeys(values, torch.zeros(rows, 1)), {_TASK: labels}, {}, subjects
    )
