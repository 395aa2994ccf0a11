"""Training steps that break their promise, each in one way: what a self-check and an audit must see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client import dp, shared_noise, train, trial
from client.augment import Altering, Uniforms
from client.augment import alter as _alter
from client.dp import FEWEST_ROWS, Clipping
from client.dp import clipped_sum as _sum
from client.hiding import Hiding
from client.hiding import conceal as _conceal
from client.train import LocalTraining
from common.bookkeeping import engine
from common.bookkeeping.engine import ClippedSum
from common.bookkeeping.rows import RowIndex
from common.data.batch import Batch, take
from common.models.loss import row_losses as _losses
from common.models.outputs import Paired, Told
from common.models.parts import ObjectiveParts, Seen
from common.objectives import Anchor, Part
from common.privacy.lattice import share_std as _share_std
from common.privacy.noise import NoiseSource
from common.privacy.plan import PrivacyPlan
from common.seeds import numpy_generator

_anchored, _restored = ObjectiveParts._anchored, ObjectiveParts._restored
_noise, _draw, _descend, _part = train.add_noise, train.draw_sample, train._descend, engine.part_sum
Gradients = dict[str, Tensor]


def _longer(
    model: nn.Module, losses: Callable[[], Tensor], rows: RowIndex, *, clip_norm: float, onto: Gradients | None
) -> ClippedSum:
    return _part(model, lambda: 1.001 * losses(), rows, clip_norm=clip_norm, onto=onto)


@dataclass(frozen=True)
class Bug:
    """Attributes of modules and what stands in their place."""

    patches: tuple[tuple[object, str, Callable[..., object]], ...]

    def plant(self, into: pytest.MonkeyPatch) -> None:
        """Break the code until the test ends."""
        for module, name, broken in self.patches:
            into.setattr(module, name, broken)


def _clipping(broken: Callable[[nn.Module, Batch, Clipping], Gradients]) -> Bug:
    return Bug(((train, "clipped_sum", lambda *given: ClippedSum(broken(*given), 0)),))


def _noising(broken: Callable[[Gradients, NoiseSource, str, PrivacyPlan], Gradients]) -> Bug:
    return Bug(((train, "add_noise", broken),))


def _drawing(broken: Callable[[Batch, LocalTraining, NoiseSource, int], Batch]) -> Bug:
    return Bug(tuple((module, "draw_sample", broken) for module in (train, trial)))


def _scaled(parts: Gradients, factor: float) -> Gradients:
    return {name: part * factor for name, part in parts.items()}


def _each_subject(model: nn.Module, batch: Batch, clipping: Clipping) -> list[Gradients]:
    wide = replace(clipping, clip_norm=1e9)
    return [_sum(model, take(batch, batch.subjects == one), wide).gradients for one in torch.unique(batch.subjects)]


def _further(model: nn.Module, batch: Batch, clipping: Clipping) -> Gradients:
    return _sum(model, batch, replace(clipping, clip_norm=math.sqrt(2) * clipping.clip_norm)).gradients


def _apart(model: nn.Module, batch: Batch, clipping: Clipping) -> Gradients:
    """Every parameter is clipped as if it were alone: two modalities' gradients reach sqrt(2) times as far together."""
    total = _sum(model, take(batch, batch.subjects == -7), clipping).gradients
    for gradients in _each_subject(model, batch, clipping):
        for name, part in gradients.items():
            total[name] = total[name] + part * min(1.0, clipping.clip_norm / max(float(part.norm()), 1e-300))
    return total


def _by_record(model: nn.Module, batch: Batch, clipping: Clipping) -> Gradients:
    return _sum(model, replace(batch, subjects=torch.arange(len(batch))), clipping).gradients


def _mean(model: nn.Module, batch: Batch, clipping: Clipping) -> Gradients:
    drawn = max(1, len(torch.unique(batch.subjects)))
    return _scaled(_sum(model, batch, clipping).gradients, MEAN_OF / drawn)


def _fragile(model: nn.Module, batch: Batch, clipping: Clipping) -> Gradients:
    whole = all(bool(torch.isfinite(value).all()) for value in batch.values.values())
    return _scaled(_sum(model, batch, clipping).gradients, 1.0 if whole else math.nan)


def _wrong_where_large(model: nn.Module, batch: Batch, clipping: Clipping) -> Gradients:
    return _scaled(_sum(model, batch, clipping).gradients, 1.01 if clipping.rows > FEWEST_ROWS else 1.0)


def _unequal(parts: Gradients, noise: NoiseSource, label: str, plan: PrivacyPlan) -> Gradients:
    first, *_ = parts
    return {**_noise(dict(parts), noise, label, plan), first: parts[first].clone() / plan.divisor}


def _fixed_size(batch: Batch, training: LocalTraining, noise: NoiseSource, step: int) -> Batch:
    subjects, place = torch.unique(batch.subjects, return_inverse=True)
    assert training.plan is not None
    order = np.argsort(noise.uniform(f"sampling/{step}", len(subjects)))
    drawn = np.zeros(len(subjects), dtype=np.bool_)
    drawn[order[: round(training.plan.sampling_rate * len(subjects))]] = True
    return take(batch, torch.from_numpy(drawn)[place])


def _lazy(model: nn.Module, training: LocalTraining, gradients: object) -> None:
    first = next(iter(model.parameters()))
    kept = first.detach().clone()
    _descend(model, training, gradients)  # type: ignore[arg-type]
    with torch.no_grad():
        first.copy_(kept)


def _two_rows(model: nn.Module, batch: Batch, *, task: str, auxiliary_weight: float, parts: tuple[Part, ...]) -> Tensor:
    losses = _losses(model, batch, task=task, auxiliary_weight=auxiliary_weight, parts=parts)
    return losses + 0.01 * losses.roll(1)


def _of_the_batch(self: ObjectiveParts, part: Anchor, seen: Seen, _strangers: Tensor) -> Paired:
    return _anchored(self, part, seen, seen.mean(part.target))


def _told_by_neighbours(self: ObjectiveParts, name: str, seen: Seen) -> Told:
    told = _restored(self, name, seen)
    return Told(told.answers, told.target.roll(1, dims=0), told.counted)


def _in_public(sample: Batch, dropout: float, hiding: Hiding, _uniforms: Uniforms) -> Batch:
    return _conceal(sample, dropout, hiding, lambda label, size: numpy_generator(0, label).random(size))


def _once_for_all(sample: Batch, dropout: float, hiding: Hiding, uniforms: Uniforms) -> Batch:
    return _conceal(sample, dropout, hiding, lambda label, size: uniforms(label.partition("/")[0], size) * 0 + 0.4)


def _altered_in_public(sample: Batch, altering: Altering, _uniforms: Uniforms) -> Batch:
    return _alter(sample, altering, lambda label, size: numpy_generator(0, label).random(size))


def _all_altered_alike(sample: Batch, altering: Altering, uniforms: Uniforms) -> Batch:
    return _alter(sample, altering, lambda label, size: np.resize(uniforms(label, size // max(1, len(sample))), size))


MEAN_OF = 40.0  # the divisor of the plans that these bugs are planted under
BUGS = {
    "sqrt(2) times the sensitivity": _clipping(_further),
    "modalities clipped apart": _clipping(_apart),
    "records clipped apart": _clipping(_by_record),
    "a mean over those drawn": _clipping(_mean),
    "half the noise": _noising(lambda sums, noise, label, plan: _noise(sums, noise, label, _quieter(plan, 0.5))),
    "the noise of one step again": _noising(lambda sums, noise, _label, plan: _noise(sums, noise, "step", plan)),
}
UNDER_SAMPLING = {
    "batches of one size": _drawing(_fixed_size),
    "everybody drawn": _drawing(lambda batch, *_: batch),
    "the same subjects in every step": _drawing(lambda batch, training, noise, _: _draw(batch, training, noise, 0)),
}
BROKEN_SET_UPS = {
    "gradients a hundredth too long in parts of the run's own size": _clipping(_wrong_where_large),
    "gradients a thousandth too long": Bug(((engine, "part_sum", _longer),)),
    "one parameter without noise": _noising(_unequal),
    "0.8 times the noise": _noising(lambda sums, noise, label, plan: _noise(sums, noise, label, _quieter(plan, 0.8))),
    "another divisor": _noising(lambda sums, noise, label, plan: _scaled(_noise(sums, noise, label, plan), 1.01)),
    "a number that is none spoils the sum": _clipping(_fragile),
    "a part that does not move": Bug(((train, "_descend", _lazy),)),
}
WITH_PARTS = {
    "a loss that looks at two rows": Bug(((dp, "row_losses", _two_rows),)),
    "a stranger bank made of the batch": Bug(((ObjectiveParts, "_anchored", _of_the_batch),)),
    "pieces that are a neighbour's": Bug(((ObjectiveParts, "_restored", _told_by_neighbours),)),
    "masking drawn from the public seed": Bug(((train, "conceal", _in_public),)),
    "the same masking in all records": Bug(((train, "conceal", _once_for_all),)),
    "alterations drawn from the public seed": Bug(((train, "alter", _altered_in_public),)),
    "all records altered alike": Bug(((train, "alter", _all_altered_alike),)),
}
SHARED = {
    "half the share of noise": Bug(((shared_noise, "share_std", lambda *given: _share_std(*given) / 2),)),
    "sqrt(2) times the sensitivity, shared": _clipping(_further),
}


def _quieter(plan: PrivacyPlan, factor: float) -> PrivacyPlan:
    return replace(plan, noise_multiplier=factor * plan.noise_multiplier)
