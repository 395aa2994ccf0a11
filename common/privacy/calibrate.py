"""The smallest noise that keeps a promise: calibration of one mechanism beside others that are fixed already."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.privacy.accounting import COARSE, pld_epsilon
from common.privacy.events import LATTICE_SLACK, Event
from common.privacy.gaussian import gaussian_delta
from common.privacy.renyi import renyi, renyi_epsilon

LARGEST_NOISE = 1e4
SMALLEST_NOISE = 0.05
_MARGIN = 1e-6
_GRID = 1_000_000
_TOLERANCE = 3e-4
_BRACKET = 1.02
_FIRST_STEP = 0.15
_UNBOUNDED = 10.0
_STEPS = 60


@dataclass(frozen=True)
class Budget:
    """An (epsilon, delta) promise per subject; neighbours: add or remove one."""

    epsilon: float
    delta: float


def calibrate_noise(target: Budget, wanted: Event, *, before: Sequence[Event] = ()) -> float:
    """Find the smallest noise multiplier at which `wanted` fits into `target` beside the events of `before`.

    The noise multiplier that `wanted` comes with is not read.

    Guarantees:
        within: the PLD epsilon of `before` and `wanted` at the result is at most `target.epsilon` at `target.delta`.
        tight: a sampled event's result is at most 0.1 % above the smallest, an unsampled one's 1e-5.

    Raises:
        ValueError: no multiplier below 10,000 meets the target.
    Source: PLD as in accounting.pld_epsilon; one Gaussian: Balle and Wang 2018, arXiv:1805.06530.
    """
    unsampled = all(event.sampling_rate == 1 for event in (wanted, *before))
    found = _closed_form(target, wanted, before) if unsampled else _search(target, wanted, before)
    return max(SMALLEST_NOISE, _rounded_up(found))


def _rounded_up(noise: float) -> float:
    return math.ceil(noise * _GRID) / _GRID


def _no_noise(target: Budget) -> str:
    return (
        f"epsilon {target.epsilon:g} at delta {target.delta:g} cannot be met with a noise multiplier below"
        f" {LARGEST_NOISE:g}"
    )


def _closed_form(target: Budget, wanted: Event, before: Sequence[Event]) -> float:
    """Unsampled Gaussians are one Gaussian: find its largest ratio of sensitivity to std, and what is left of it."""
    slack = LATTICE_SLACK * sum(event.count for event in (wanted, *before) if event.mechanism == "discrete_gaussian")
    epsilon = target.epsilon * (1 - _MARGIN) - slack
    if epsilon <= 0:
        raise ValueError(_no_noise(target))
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) <= target.delta:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, epsilon) <= target.delta else (low, middle)
    left = low**2 - math.fsum(event.count / event.noise_multiplier**2 for event in before)
    if left <= wanted.count / LARGEST_NOISE**2:
        raise ValueError(_no_noise(target))
    return math.sqrt(wanted.count / left)


def _search(target: Budget, wanted: Event, before: Sequence[Event]) -> float:
    """Bracket with Renyi, which asks for too much noise; close in on PLD on a coarse grid; prove it on the fine one."""
    epsilon = target.epsilon * (1 - _MARGIN)
    high = _enough_by_renyi(Budget(epsilon, target.delta), wanted, before)

    def excess(log_noise: float) -> float:
        event = replace(wanted, noise_multiplier=math.exp(log_noise))
        return min(pld_epsilon((*before, event), target.delta, interval=COARSE) / epsilon, _UNBOUNDED) - 1

    noise = math.exp(_false_position(excess, math.log(high)))
    for _ in range(_STEPS):
        noise = _rounded_up(noise)  # what is proved is what is used
        if pld_epsilon((*before, replace(wanted, noise_multiplier=noise)), target.delta) <= epsilon:
            return noise
        noise *= 1 + _TOLERANCE
    raise ValueError(_no_noise(target))


def _enough_by_renyi(target: Budget, wanted: Event, before: Sequence[Event]) -> float:
    """A noise multiplier that is enough, at most 2 % above the smallest that Renyi accounting can prove."""

    def enough(noise: float) -> bool:
        events = (*before, replace(wanted, noise_multiplier=noise))
        return renyi_epsilon(renyi(events), target.delta) <= target.epsilon

    low, high = SMALLEST_NOISE, LARGEST_NOISE
    if not enough(high):
        raise ValueError(_no_noise(target))
    while high / low > _BRACKET:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _false_position(excess: Callable[[float], float], high: float) -> float:
    """Close in on the root of a falling function from `high`, where it is below 0; ends on the side below 0.

    Source: the Illinois form of regula falsi, Dowell and Jarratt 1971.
    """
    smallest = math.log(SMALLEST_NOISE)
    low = max(smallest, high - _FIRST_STEP)
    at_high, at_low = excess(high), excess(low)
    while at_low <= 0:
        if low == smallest:
            return low
        high, at_high = low, at_low
        low = max(smallest, low - 2 * _FIRST_STEP)
        at_low = excess(low)
    value = at_high
    while high - low > _TOLERANCE and not -_TOLERANCE < value <= 0:
        middle = low + (high - low) * at_low / (at_low - at_high)
        middle = min(max(middle, low + _TOLERANCE / 2), high - _TOLERANCE / 2)
        value = excess(middle)
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
    return high
