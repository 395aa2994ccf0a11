"""What a training step must do, tried on a run's own model with subjects that do not exist.

The step is looked at from outside, as the difference that subjects make to it under one and the same noise: whatever
draws, clips, adds up, noises and divides is looked at together, by whichever engine.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor, nn

from client.arithmetic import synthetic_batch, synthetic_model
from client.augment import NOTHING_ALTERED
from client.hiding import NOTHING_HIDDEN
from client.step_audit import fresh, nobody, own_step, plan_of
from client.train import LocalTraining, draw_sample, labelled_rows, train_round
from common.blocks import blocks_of, flatten, load
from common.config import Config
from common.data.batch import Batch, masked, take
from common.models.loss import row_losses
from common.models.model import build_model
from common.privacy.lattice import share_std
from common.privacy.noise import NoiseSource
from common.privacy.plan import CLIP_NORMS, PrivacyPlan
from common.privacy.step_audit import ALARM, not_poisson, wrong_std
from common.releases import schema_of

_SPREAD = 0.05  # how far weights are moved from the first ones: enough that none is at a special place
_SUBJECT_OF_ROW = (0, 1, 1, 2, 3, 3, 3, 4)
_RECORD_OF_ROW = (0, 1, 1, 3, 4, 5, 6, 7)  # twice the same: clipped one by one, they would reach twice as far
_TWO_RECORDS, _HUGE, _ORDINARY = 1, 2, 4
_PARITY, _ROUNDING = 1e-5, 1e-6
_NOISE_DRAWS, _ROUNDS = 2000, 8
_DRAWN_A_STEP, _MOST_SUBJECTS, _SAMPLED_STEPS = 100, 50_000, 40


class Broken(ValueError):
    """The step does not do what its plan says."""


@dataclass(frozen=True)
class Trial:
    """A run's step, its own model, and rows of nobody; in this trial everybody is drawn and no modality is hidden."""

    model: nn.Module
    rows: Batch
    training: LocalTraining
    plan: PrivacyPlan
    honest: int

    def contribution(self, rows: Batch, *, clip_norm: float) -> Tensor:
        """What subjects add to a step, float64 [coordinate]: the step with them, less the step without, one noise."""
        training = replace(self.training, plan=replace(self.plan, clip_norm=clip_norm))
        return self.difference(rows, training, fresh(0))

    def difference(self, rows: Batch, training: LocalTraining, noise: NoiseSource) -> Tensor:
        """A step with these rows, less the same step without them."""
        with own_step(self.model, training, honest=self.honest) as step:
            return step(rows, noise, 0) - step(nobody(rows), noise, 0)

    @property
    def tolerance(self) -> float:
        """How far two sums may be apart that should be the same."""
        return _PARITY * self.plan.clip_norm * len(_SUBJECT_OF_ROW) + self.rounding(self.plan.clip_norm)

    def cut(self, clip_norm: float) -> float:
        """How large a coordinate of a sum may be before the plan's grid ends."""
        return math.inf if self.plan.lattice is None else self.plan.divisor * clip_norm

    def rounding(self, clip_norm: float) -> float:
        """How far rounding to the plan's grid may move a sum, in L2 norm."""
        lattice = self.plan.lattice
        return 0.0 if lattice is None else (lattice.l2_sensitivity / lattice.clip_steps - 1) * clip_norm


def trial_of(config: Config, training: LocalTraining, honest: int) -> Trial:
    """Set a run's step up for a trial, with subjects of one record or several, with all modalities or some.

    The rows say what is hidden, and are as good as altered: nothing is drawn but noise.
    """
    plan = replace(plan_of(training), sampling_rate=1.0, steps_per_round=1)
    subjects = torch.tensor(_SUBJECT_OF_ROW)
    whole, some = (synthetic_batch(config, len(subjects), presence=presence) for presence in (1.0, 1 / 2))
    special = torch.isin(subjects, torch.tensor((_TWO_RECORDS, _HUGE, _ORDINARY))).unsqueeze(1)
    mask = {name: seen | special for name, seen in some.mask.items()}
    values = {name: masked(value, mask[name]) for name, value in whole.values.items()}
    rows = replace(whole, values=values, mask=mask, subjects=subjects)
    rows = take(rows, torch.tensor(_RECORD_OF_ROW))
    calm = replace(training, steps=1, plan=plan, modality_dropout=0.0, hiding=NOTHING_HIDDEN, altering=NOTHING_ALTERED)
    return Trial(synthetic_model(config, spread=_SPREAD), labelled_rows(rows, calm), calm, plan, honest)


def check_parts(trial: Trial, rows: int) -> None:
    """Parts of the run's own size give the sum that small ones give."""
    clip_norm = trial.plan.clip_norm
    if rows == trial.training.rows:
        return
    own = replace(trial, training=replace(trial.training, rows=rows)).contribution(trial.rows, clip_norm=clip_norm)
    if not float((own - trial.contribution(trial.rows, clip_norm=clip_norm)).norm()) <= trial.tolerance:
        raise Broken(f"parts of {rows} rows give another sum than parts of {trial.training.rows}")


def check_gradients(trial: Trial) -> float:
    """Hold a step's sum against one subject at a time in double precision, clipped one by one.

    Where all are clipped, some, and none. An engine may be as wrong as plain single precision is for one subject.
    """
    exact, plain = (one_at_a_time(trial, number) for number in (torch.float64, torch.float32))
    norms = exact.norm(dim=1)
    moving = norms[norms > 0]
    if not bool(torch.isfinite(norms).all()) or not len(moving):
        raise Broken("synthetic subjects have no gradient, or an infinite one: the model cannot be trained")
    allowed = max(_PARITY, 4 * float(((plain - exact).norm(dim=1)[norms > 0] / moving).max()))
    worst = 0.0
    for clip_norm in map(_allowed, (float(moving.min()) / 10, float(moving.median()), 2 * float(moving.max()))):
        scale = (clip_norm / norms).clamp(max=1.0)
        found = trial.contribution(trial.rows, clip_norm=clip_norm)
        expected = (scale @ exact).clamp(-trial.cut(clip_norm), trial.cut(clip_norm))
        apart = float((found - expected).norm()) - trial.rounding(clip_norm)
        worst = max(worst, apart / float(scale @ norms))
    if not worst <= allowed:
        raise Broken(f"clipped gradients are {worst:.2g} of their size away from one subject at a time")
    return max(0.0, worst)


def one_at_a_time(trial: Trial, number: torch.dtype) -> Tensor:
    """The reference: the mean of each subject's rows' gradients, one by one, by autograd: [subject, coordinate]."""
    model, asked, task = copy.deepcopy(trial.model).to(number).train(), trial.training, trial.training.task
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for block in blocks_of(model).values() for name in block]
    subjects = torch.unique(trial.rows.subjects)
    found = torch.zeros(len(subjects), sum(part.numel() for part in wanted), dtype=torch.float64)
    for row, subject in enumerate(trial.rows.subjects):
        own = take(trial.rows, torch.tensor([row]))
        exact = [
            {key: one.to(number) if one.is_floating_point() else one for key, one in part.items()}
            for part in (own.values, own.seconds, own.encoded)
        ]
        own = replace(own, values=exact[0], seconds=exact[1], encoded=exact[2])
        loss = row_losses(model, own, task=task, auxiliary_weight=asked.auxiliary_weight, parts=asked.parts)
        parts = torch.autograd.grad(loss.sum(), wanted, allow_unused=True, materialize_grads=True)
        share = 1 / int((trial.rows.subjects == subject).sum())
        found[torch.searchsorted(subjects, subject)].add_(torch.cat([part.double().ravel() for part in parts]) * share)
    return found


def check_bounded(trial: Trial) -> None:
    """No subject moves a step by more than the clip norm: not with two records, not with huge values."""
    rows = _with_values(trial.rows, _HUGE, 1e4)
    norms = one_at_a_time(trial, torch.float32).norm(dim=1)
    for clip_norm in (trial.plan.clip_norm, _allowed(float(norms[norms > 0].min()) / 10)):
        limit = clip_norm * (1 + _ROUNDING) + trial.rounding(clip_norm)
        whole = trial.contribution(rows, clip_norm=clip_norm)
        for subject in (_TWO_RECORDS, _HUGE, _ORDINARY):
            own = rows.subjects == subject
            alone = trial.contribution(take(rows, own), clip_norm=clip_norm)
            moved = whole - trial.contribution(take(rows, ~own), clip_norm=clip_norm)
            reach = max(float(alone.norm()), float(moved.norm()))
            if not reach <= limit:
                raise Broken(f"one subject moves a step by {reach:.6g}, more than the clip norm {clip_norm:g}")


def check_not_finite(trial: Trial) -> None:
    """A subject whose gradient is no number adds nothing, and changes nobody else's part."""
    clip_norm = trial.plan.clip_norm
    without = trial.contribution(take(trial.rows, trial.rows.subjects != _ORDINARY), clip_norm=clip_norm)
    numbers = (*trial.rows.values.values(), *trial.rows.encoded.values())
    if not any(value.is_floating_point() for value in numbers):  # bytes of texts are always finite
        return
    for bad in (float("nan"), float("inf")):
        found = trial.contribution(_with_values(trial.rows, _ORDINARY, bad), clip_norm=clip_norm)
        if not float((found - without).norm()) <= trial.tolerance:
            raise Broken("a subject whose values are not finite changes what the others add")


def check_noise(trial: Trial) -> tuple[float, int]:
    """Measure the noise of steps that nobody is in: as a whole, in every parameter, and from one step to the next.

    Returns:
        Measured / planned standard deviation, and over how many draws.
    """
    plan, empty, sizes = trial.plan, nobody(trial.rows), _sizes(trial.model)
    std = plan.noise_multiplier * plan.clip_norm
    if plan.lattice is not None:
        std = plan.step * share_std(plan.lattice.l2_sensitivity, plan.noise_multiplier, trial.honest)
    steps, one_round = 2 * math.ceil(_NOISE_DRAWS / (2 * sum(sizes))), fresh(0)
    with own_step(trial.model, trial.training, honest=trial.honest) as step:
        rounds = [one_round if plan.lattice is None else fresh(number) for number in range(steps)]
        drawn = np.stack([step(empty, noise, number).numpy() for number, noise in enumerate(rounds)])
    if drawn.shape[1] != sum(sizes):
        raise Broken(f"a step has {drawn.shape[1]} numbers, the model {sum(sizes)} trainable ones")
    for part in (drawn, *np.split(drawn, np.cumsum(sizes)[:-1], axis=1)):
        if wrong_std(part, std, alarm=ALARM / (1 + len(sizes))):
            raise Broken(f"{part.size} draws of noise have {part.std() / std:.3g} of the planned standard deviation")
    if wrong_std((drawn[::2] + drawn[1::2]) / math.sqrt(2.0), std):
        raise Broken("the noise of one step is not independent of the next one's")
    return float(np.sqrt(np.square(drawn / std).mean())), drawn.size


def check_sampling(trial: Trial, training: LocalTraining) -> None:
    """Subjects are drawn each on its own with the plan's chance, and a step is taken with those who were drawn."""
    rate = plan_of(training).sampling_rate
    drawing = replace(trial.training, plan=replace(trial.plan, sampling_rate=rate))
    number = min(max(_DRAWN_A_STEP, round(_DRAWN_A_STEP / rate)), _MOST_SUBJECTS)
    labels = {training.task: torch.ones(number, dtype=torch.int64)}
    thin, noise = Batch({}, {}, {}, labels, {}, torch.arange(number)), fresh(0)
    drawn = np.zeros((_SAMPLED_STEPS, number), dtype=np.bool_)
    for step, row in enumerate(drawn):
        row[draw_sample(thin, drawing, noise, step).subjects.numpy()] = True
    problem = not_poisson(drawn, rate)
    if problem:
        raise Broken(problem)
    for place in range(_SAMPLED_STEPS):
        noise = fresh(place)
        some = draw_sample(trial.rows, drawing, noise, 0)
        if 0 < len(some) < len(trial.rows):
            found = trial.difference(trial.rows, drawing, noise)
            if float((found - trial.contribution(some, clip_norm=trial.plan.clip_norm)).norm()) > trial.tolerance:
                raise Broken("a step is not taken with the subjects who were drawn")
            return


def check_round(trial: Trial) -> None:
    """A round's update is its steps and nothing else, and what is not trained stays to the bit as it was."""
    plan = trial.plan
    rate = plan.divisor / (plan.noise_multiplier * plan.clip_norm)  # about one standard deviation of noise a step
    for rows, steps in ((trial.rows, 1), (nobody(trial.rows), 2)):
        planned = replace(plan, steps_per_round=steps)
        training = replace(
            trial.training, steps=steps, plan=planned, learning_rate=rate, weight_decay=0.0, proximal=0.0
        )
        model, noise = copy.deepcopy(trial.model), fresh(0)
        with own_step(model, training, honest=trial.honest) as step:
            expected = sum(step(rows, noise, number) for number in range(steps)) * (-rate / plan.divisor)
        before = {name: value.clone() for name, value in _not_trained(model).items()}
        update = np.concatenate(list(train_round(model, rows, training, noise).values()))
        largest = max(float(value.detach().abs().max()) for value in model.parameters())
        if not np.allclose(update, np.asarray(expected), rtol=0, atol=_PARITY * (1 + largest)):
            raise Broken("a round's update is not the sum of its noised steps")
        if any(not torch.equal(value, before[name]) for name, value in _not_trained(model).items()):
            raise Broken("a round changes a part of the model that is not trained")


def check_moves(trial: Trial, training: LocalTraining) -> None:
    """At the run's own learning rate every trained part of the model moves: otherwise budget would buy nothing.

    Several rounds, because a single number may by chance move by less than its own rounding.
    """
    model, own = copy.deepcopy(trial.model), replace(trial.training, learning_rate=training.learning_rate)
    still = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    for number in range(_ROUNDS):
        train_round(model, nobody(trial.rows), own, fresh(number))
        parameters = dict(model.named_parameters())
        still = {name: value for name, value in still.items() if torch.equal(parameters[name], value)}
        if not still:
            return
    raise Broken(f"{next(iter(still))} does not move, at a learning rate of {training.learning_rate:g}")


def check_saved(config: Config, model: nn.Module) -> None:
    """Blocks that were saved and loaded into another model of the run are the same to the bit."""
    saved = flatten(model, blocks_of(model))
    other = build_model(config, schema_of(config), seed=config.seed + 1)
    load(other, load_arrays(save_arrays(saved)))
    if any(value.tobytes() != saved[block].tobytes() for block, value in flatten(other, blocks_of(other)).items()):
        raise Broken("a model that was saved and loaded again is another model")


def _allowed(clip_norm: float) -> float:
    """The nearest clip norm that a plan may have."""
    return min(max(clip_norm, CLIP_NORMS[0]), CLIP_NORMS[1])


def _not_trained(model: nn.Module) -> dict[str, Tensor]:
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in trained}


def _sizes(model: nn.Module) -> list[int]:
    parameters = dict(model.named_parameters())
    return [parameters[name].numel() for names in blocks_of(model).values() for name in names]


def _with_values(rows: Batch, subject: int, factor: float) -> Batch:
    """The same rows, with a subject's values multiplied where they are there; tokens have no size, and stay."""
    own = (rows.subjects == subject).nonzero()[:, 0]

    def multiplied(value: Tensor) -> Tensor:
        return value.index_copy(0, own, value[own] * factor) if value.is_floating_point() else value

    values = {name: masked(multiplied(value), rows.mask[name]) for name, value in rows.values.items()}
    return replace(rows, values=values, encoded={name: multiplied(value) for name, value in rows.encoded.items()})
