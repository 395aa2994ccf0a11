"""What the audit of single steps shows of a claimed epsilon, and what the noise of a step costs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from client.step_audit import num_canaries, observe
from client.train import LocalTraining, add_noise
from common.privacy.calibrate import Budget, calibrate_noise
from common.privacy.events import Event
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.noise import os_noise
from common.privacy.plan import PrivacyPlan
from common.privacy.step_audit import CONFIDENCE, mu_lower_bound

CLAIMS, DELTA = (8.0, 4.6), 1e-5
OBSERVATIONS, QUICK_OBSERVATIONS = (300, 1_000, 25_000), (300,)
SIZES, QUICK_SIZES = (100_000, 1_000_000, 10_000_000), (100_000,)
_TRIALS = 3


@dataclass(frozen=True)
class Shown:
    """What canaries showed of one step: `observations` are with them, and as many without."""

    claimed_epsilon: float
    observations: int
    shown_epsilon: float
    seconds: float


@dataclass(frozen=True)
class NoiseCost:
    """Nanoseconds a value, on one core, of a step's noise and of two generators that nobody should trust."""

    values: int
    step: float
    numpy_normal: float
    torch_randn: float


def measure_audit(observations: tuple[int, ...]) -> tuple[Shown, ...]:
    """Audit the real step at each claim, as if it were a run's only one."""
    torch.set_num_threads(1)
    found = []
    for claim in CLAIMS:
        noise = calibrate_noise(Budget(claim, DELTA), Event("gaussian", 1.0, 1.0, 1))
        plan = PrivacyPlan(claim, DELTA, 0.5, noise, 1.0, 1, 1, 100.0, ())
        training = LocalTraining("any", 0.0, 0.0, 1.0, 0.0, 0.0, 1, 1, 0, "", 0, plan)
        for number in observations:
            started = time.perf_counter()
            bound = mu_lower_bound(observe(training, observations=number), confidence=CONFIDENCE) / num_canaries(plan)
            found.append(Shown(claim, number, gaussian_epsilon(bound, DELTA), time.perf_counter() - started))
    return tuple(found)


def measure_noise(sizes: tuple[int, ...]) -> tuple[NoiseCost, ...]:
    """Time the noise of a step of so many trained parameters; the best of three."""
    torch.set_num_threads(1)
    plan, source = PrivacyPlan(8.0, DELTA, 0.5, 1.0, 1.0, 1, 1, 100.0, ()), os_noise("bench", "", 0, "noise")
    found = []
    for size in sizes:
        sums = {"all": torch.zeros(size, dtype=torch.float64)}
        random, target = np.random.default_rng(0), torch.empty(size)
        costs: list[list[float]] = [[], [], []]
        for _ in range(_TRIALS):
            moments = [time.perf_counter()]
            add_noise(sums, source, "step", plan)
            moments.append(time.perf_counter())
            random.standard_normal(size)
            moments.append(time.perf_counter())
            target.normal_()
            moments.append(time.perf_counter())
            for cost, seconds in zip(costs, np.diff(moments), strict=True):
                cost.append(float(seconds) / size * 1e9)
        found.append(NoiseCost(size, *(min(cost) for cost in costs)))
    return tuple(found)
