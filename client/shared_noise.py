"""A site's part of a step whose noise the sites share out: a rounded sum of clipped gradients with a share of noise."""

from __future__ import annotations

import numpy as np
from torch import nn

from client.train import LocalTraining, adding_up, draw_sample, labelled_rows
from common.blocks import blocks_of
from common.data.batch import Batch
from common.privacy.lattice import share_std
from common.privacy.noise import NoiseSource


def shared_step(
    model: nn.Module, batch: Batch, training: LocalTraining, noise: NoiseSource, *, honest: int
) -> dict[str, np.ndarray]:
    """Sum the subjects' clipped gradients at the round's weights, round to the plan's lattice, add a share of noise.

    Returns:
        By block, int64 [parameter]: lattice steps, of all trainable blocks. It carries a share of the planned noise and
        no more than that: it must not leave except into a secure sum that `honest` honest sites are in.

    Guarantees:
        bounded: adding or removing one subject, with all its rows, moves what is noised by at most
            lattice.l2_sensitivity in L2 norm.
        shared: every coordinate gets an exact discrete Gaussian of its own, of the width that makes the noise of
            `honest` sites the planned one together, also when nobody is in the batch.

    Raises:
        ValueError: the plan has no lattice or the model more coordinates than it, or the model has a parameter that
            cannot be clipped exactly.
    """
    plan = training.plan
    if plan is None or plan.lattice is None:
        raise ValueError("shared noise needs a plan with a lattice")
    sums, largest = _clipped_sums(model, batch, training, noise), plan.lattice.cut(plan.divisor)
    rounded = {block: to_lattice(vector, step=plan.step, largest=largest) for block, vector in sums.items()}
    lengths = [vector.size for vector in rounded.values()]
    if sum(lengths) > plan.lattice.coordinates:
        raise ValueError(f"the plan is for {plan.lattice.coordinates} coordinates, the model has {sum(lengths)}")
    std = share_std(plan.lattice.l2_sensitivity, plan.noise_multiplier, honest)
    shares = np.split(noise.discrete_gaussian("share", std, sum(lengths)), np.cumsum(lengths)[:-1])
    return {block: rounded[block] + share for block, share in zip(rounded, shares, strict=True)}


def to_lattice(sums: np.ndarray, *, step: float, largest: int) -> np.ndarray:
    """Round real sums [coordinate] to int64 steps, none of them beyond `largest`.

    Guarantees:
        close: sums of d coordinates that are s steps apart in L2 norm come out at most s + sqrt(d) apart.

    Raises:
        ValueError: the step is so small that dividing by it means nothing.
    """
    if not np.finfo(np.float64).tiny <= step < np.inf:
        raise ValueError(f"a step of the lattice must be a normal number above 0, got {step}")
    return np.clip(np.rint(sums / step), -largest, largest).astype(np.int64)


def _clipped_sums(model: nn.Module, batch: Batch, training: LocalTraining, noise: NoiseSource) -> dict[str, np.ndarray]:
    """By block, float64 [parameter], the sum of clipped gradients: not yet noised."""
    with adding_up(model, training) as add_up:
        gradients = add_up(draw_sample(labelled_rows(batch, training), training, noise, step=0))
    return {
        block: np.concatenate([gradients[name].numpy().ravel() for name in names])
        for block, names in blocks_of(model).items()
    }
