"""A site's local training in one round: a fixed number of steps, each noised in full, or none at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from client.augment import NOTHING_ALTERED, Altering, Uniforms, alter
from client.dp import (
    FEWEST_ROWS,
    MOST_ROWS,
    Clipping,
    Engine,
    clipped_sum,
    part_rows,
    per_row_gradients,
    shares_of,
    whole_subjects,
)
from client.hiding import NOTHING_HIDDEN, Hiding, conceal, hiding_of
from client.team import Sums, side_by_side
from common.blocks import blocks_of, flatten
from common.config import Config
from common.curriculum import stage_in
from common.data.batch import Batch, hide, take
from common.data.labels import is_labelled
from common.models.loss import row_losses
from common.objectives import TASK_ONLY, Part, in_round
from common.privacy.noise import NoiseSource
from common.privacy.plan import PrivacyPlan
from common.seeds import numpy_generator

_NOISE_BLOCK = 1 << 14  # values


@dataclass(frozen=True)
class LocalTraining:
    """What a site does in one round.

    Attributes:
        proximal: FedProx's mu; pulls towards the round's first weights.
        steps: steps of the round; under a plan, the plan's `steps_per_round`.
        batch_subjects: subjects of a step where there is no plan.
        seed, site, round: name the experiment's random stream of this round.
        rows: rows that go through the model together; 0: as many as fit. A larger step is computed in several parts.
        engine: what computes per-subject gradients under a plan.
        plan: sampling, clipping, noise and divisor of every step; None: no privacy.
        parts: the objective's, with the weights of this round.
        hiding, altering: what else than whole modalities a step hides, and how it alters records before that.
        processes: of the site, that share the subjects of a step out.
        blocks, reads: blocks that are trained, by name or family, and modalities that are read; none named: all.
    """

    task: str
    auxiliary_weight: float
    modality_dropout: float
    learning_rate: float
    weight_decay: float
    proximal: float
    steps: int
    batch_subjects: int
    seed: int
    site: str
    round: int
    plan: PrivacyPlan | None
    rows: int = 0
    engine: Engine = "bookkeeping"
    parts: tuple[Part, ...] = TASK_ONLY
    hiding: Hiding = NOTHING_HIDDEN
    altering: Altering = NOTHING_ALTERED
    processes: int = 1
    blocks: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


def train_round(model: nn.Module, batch: Batch, training: LocalTraining, noise: NoiseSource) -> dict[str, np.ndarray]:
    """Train the model in place on a site's training rows.

    Returns:
        By block, float64 [parameter]: weights after the round minus weights before it. All trainable blocks, also those
        that this site does not hold or that stay with it: whoever sends the update chooses.

    Guarantees:
        noised: under a plan, every step takes the sum of subject-wise clipped gradients of a Poisson sample, adds
            Gaussian noise of std noise_multiplier * clip_norm to every trainable coordinate, also when nobody was
            drawn, and divides by the plan's public divisor. The update is post-processing of these noisy sums.
        one step count: it takes `training.steps` steps whatever the data are.

    Raises:
        ValueError: the plan says another number of steps, or that the sites share the noise out; or the model has a
            parameter that cannot be clipped exactly.
    """
    plan = training.plan
    if plan is not None and plan.steps_per_round != training.steps:
        raise ValueError(f"steps must be the plan's {plan.steps_per_round}, got {training.steps}")
    if plan is not None and plan.lattice is not None:
        raise ValueError("this plan's noise is shared out between the sites: no site may take the step itself")
    blocks = tuple(blocks_of(model))
    before = flatten(model, blocks)
    labelled = labelled_rows(batch, training)
    with adding_up(model, training) as add_up:
        if plan is None:
            _descend(model, training, _plain_gradients(add_up, labelled, training))
        else:
            _descend(model, training, _noisy_gradients(add_up, labelled, training, noise))
    after = flatten(model, blocks)
    return {block: after[block].astype(np.float64) - before[block] for block in blocks}


@contextmanager
def adding_up(model: nn.Module, training: LocalTraining) -> Iterator[Sums]:
    """Open what adds up a step's subjects: their clipped gradients under a plan, else the gradients of their losses.

    Guarantees:
        as one: several processes give what one gives, up to the rounding of a sum in another order.
    """
    if training.processes == 1 or any(not part.per_example for part in training.parts):
        with one_process(model, training) as add_up:
            yield add_up
        return
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    shared = replace(training, rows=training.rows or part_rows(size, most=FEWEST_ROWS), processes=1)
    with side_by_side(model, partial(one_process, training=shared), training.processes) as add_up_shares:
        yield lambda sample: add_up_shares(shares_of(sample, shared.rows, training.processes))


@contextmanager
def one_process(model: nn.Module, training: LocalTraining) -> Iterator[Sums]:
    """As `adding_up`, in this process alone."""
    if training.plan is None:
        model.train()
        yield lambda sample: _plain_sum(model, sample, training)
        return
    with per_row_gradients(model):
        yield lambda sample: clipped_sum(model, sample, clipping_of(training)).gradients


def labelled_rows(batch: Batch, training: LocalTraining) -> Batch:
    """The rows that there is something to learn from, with what is read of them and nothing else."""
    if training.reads:
        batch = hide(batch, training.reads)
        batch = take(batch, torch.stack([seen.any(dim=1) for seen in batch.mask.values()]).any(dim=0))
    if any(part.kind != "task" and part.weight for part in training.parts):
        return batch  # the other parts need no label
    return take(batch, is_labelled(batch.labels[training.task]))


def _descend(model: nn.Module, training: LocalTraining, gradients: Iterator[dict[str, Tensor]]) -> None:
    """Take plain gradient steps; torch.optim would cost a second of imports for one line."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for step in gradients:
        with torch.no_grad():
            for name, weight in parameters.items():
                pull = training.weight_decay * weight + training.proximal * (weight - start[name])
                weight.sub_(training.learning_rate * (step[name].to(weight.dtype) + pull))


def training_of(
    config: Config, plan: PrivacyPlan | None, *, site: str = "", round: int = 0, rows: int = 0
) -> LocalTraining:
    """What a site does in a round of a run, out of what it agreed to: the one place where a round gets its numbers."""
    stage = stage_in(config.stages, round)
    modalities = config.data_schema.modalities if config.data_schema is not None else {}
    parts = in_round(stage.weighed(config.objective.parts), round)
    return LocalTraining(
        task=config.objective.task,
        auxiliary_weight=config.objective.auxiliary_weight,
        modality_dropout=config.objective.modality_dropout,
        learning_rate=config.objective.learning_rate,
        weight_decay=config.objective.weight_decay,
        proximal=config.federation.proximal,
        steps=config.privacy.steps_per_round,
        batch_subjects=config.objective.batch_subjects,
        seed=config.seed,
        site=site,
        round=round,
        plan=plan,
        rows=rows,
        engine=config.privacy.engine,
        parts=parts,
        hiding=hiding_of(config, parts),
        altering=Altering(stage.augment or config.objective.augment, modalities),
        blocks=stage.blocks,
        reads=stage.modalities,
    )


def _noisy_gradients(
    add_up: Sums, batch: Batch, training: LocalTraining, noise: NoiseSource
) -> Iterator[dict[str, Tensor]]:
    """One noisy mean gradient a step; the model's weights at the time of asking."""
    return (noisy_step(add_up, batch, training, noise, step) for step in range(training.steps))


def noisy_step(add_up: Sums, batch: Batch, training: LocalTraining, noise: NoiseSource, step: int) -> dict[str, Tensor]:
    """One private step's gradient, inside `adding_up`: draw subjects, clip, add up, noise once, divide.

    Guarantees:
        one step: a round's `noise` and the number of the step name its draws; the same two draw the same again.
    """
    if training.plan is None:
        raise ValueError("noisy gradients need a plan")
    sample = draw_sample(batch, training, noise, step)
    return add_noise(add_up(sample), noise, f"step/{step}", training.plan)


def clipping_of(training: LocalTraining) -> Clipping:
    """What a subject's gradient is of in a private round, and how far it may reach."""
    if training.plan is None:
        raise ValueError("clipping needs a plan")
    size = training.plan.clip_norm, training.rows, training.engine
    return Clipping(training.task, training.auxiliary_weight, *size, training.parts)


def draw_sample(batch: Batch, training: LocalTraining, noise: NoiseSource, step: int) -> Batch:
    """Draw a private step's subjects, with all their rows, alter these, and hide modalities.

    Sampling, alterations and dropout come from the noise's own secret stream. From the experiment's seed, which is no
    secret, one subject's absence would visibly shift the others' draws, and the clipping would not bound that.
    """
    if training.plan is None:
        raise ValueError("a private sample needs a plan")
    subjects, subject_of_row = torch.unique(batch.subjects, return_inverse=True)
    drawn = poisson_draw(noise, f"sampling/{step}", len(subjects), rate=training.plan.sampling_rate)
    sample = take(batch, drawn[subject_of_row])
    uniforms: Uniforms = lambda label, size: noise.uniform(f"{label}/{step}", size)  # noqa: E731
    return _as_shown(sample, training, uniforms)


def _as_shown(sample: Batch, training: LocalTraining, uniforms: Uniforms) -> Batch:
    """What a step shows the model of its records: altered, and with some of it hidden."""
    sample = alter(sample, training.altering, uniforms)
    return conceal(sample, training.modality_dropout, training.hiding, uniforms)


def poisson_draw(noise: NoiseSource, label: str, num_subjects: int, *, rate: float) -> Tensor:
    """Draw every subject with chance `rate`, each on its own: bool [subject]; how many are drawn is random too."""
    return torch.from_numpy(noise.uniform(label, num_subjects) < rate)


def add_noise(total: dict[str, Tensor], noise: NoiseSource, label: str, plan: PrivacyPlan) -> dict[str, Tensor]:
    """Noise a clipped sum in float64 and divide it by the plan's public divisor; `total` may be overwritten with that.

    Guarantees:
        noised: every coordinate gets its own Gaussian of std plan.noise_multiplier * plan.clip_norm.
        lean: the noise is never there as a whole, only a block of it.
    """
    draw, block = noise.gaussians(label), np.empty(_NOISE_BLOCK)
    found = {}
    for name, part in total.items():
        flat = part.reshape(-1).double()
        for piece in torch.split(flat, _NOISE_BLOCK):
            values = block[: piece.numel()]
            draw(values)
            piece.add_(torch.from_numpy(values), alpha=plan.noise_multiplier * plan.clip_norm)
        found[name] = flat.div_(plan.divisor).view_as(part)
    return found


def _plain_gradients(add_up: Sums, batch: Batch, training: LocalTraining) -> Iterator[dict[str, Tensor]]:
    """One mean gradient a step over the next `batch_subjects` subjects, each the mean of its rows; no privacy."""
    random = numpy_generator(training.seed, "minibatches", training.site, training.round)
    subjects, subject_of_row = torch.unique(batch.subjects, return_inverse=True)
    waiting = np.zeros(0, dtype=np.int64)
    for _ in range(training.steps):
        if not len(subjects):
            yield add_up(batch)  # nothing at all
            continue
        if not len(waiting):
            waiting = random.permutation(len(subjects))
        drawn = np.zeros(len(subjects), dtype=np.bool_)
        drawn[waiting[: training.batch_subjects]] = True
        waiting = waiting[training.batch_subjects :]
        sample = take(batch, torch.from_numpy(drawn)[subject_of_row])
        uniforms: Uniforms = lambda _label, size: random.random(size)  # noqa: E731
        sample = _as_shown(sample, training, uniforms)
        yield {name: part / int(drawn.sum()) for name, part in add_up(sample).items()}


def _plain_sum(model: nn.Module, sample: Batch, training: LocalTraining) -> dict[str, Tensor]:
    """Add up the gradients of the subjects' losses, each the mean over its rows; in parts, unless rows are compared."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    compared = any(not part.per_example for part in training.parts)
    for whose in whole_subjects(sample.subjects, len(sample) if compared else training.rows or MOST_ROWS):
        some, asked = take(sample, whose), (training.auxiliary_weight, training.parts)
        losses = row_losses(model, some, task=training.task, auxiliary_weight=asked[0], parts=asked[1])
        _, place, counts = torch.unique(some.subjects, return_inverse=True, return_counts=True)
        found = torch.autograd.grad(torch.sum(losses / counts[place]), list(parameters.values()))
        for part, gradient in zip(total.values(), found, strict=True):
            part.add_(gradient)
    return total
