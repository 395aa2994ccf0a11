"""What noisy steps show of one subject: tests that refute a claim, and a lower bound on what a step costs.

An auditor who knows everything but whether the canary took part looks at one number of each step. How well that number
tells the two cases apart bounds the step's privacy loss from below, whatever the code claims.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter
from scipy import special

CONFIDENCE = 0.95
ALARM = 1e-9
"""The chance with which correct code may be refused: what this says no to is not said by chance."""
_SELECTING = 4  # every fourth observation chooses what is looked at; the others, which it never saw, are counted
_THRESHOLDS = 257


@dataclass(frozen=True)
class Observed:
    """Statistics of steps with the canary and without: float64 [observation, statistic], as many of either."""

    present: np.ndarray
    absent: np.ndarray


@dataclass(frozen=True)
class StepCertificate:
    """What a site found when it tried a run's training step on synthetic subjects, before any record was read.

    Attributes:
        engine: how per-subject gradients are computed.
        claimed_mu: what accounting says of one step in which a subject is drawn: sensitivity / std of the noise.
        lower_mu: what the canaries showed, with 95 % confidence: it may exceed the claim once in twenty certificates.
        refuting_mu: the same with a confidence of 1 - 1e-9: if it exceeds the claim, the claim is wrong.
        largest_mu: the largest `lower_mu` that so many observations can show.
        observations: with the canaries; as many without.
        canaries: subjects with the same records who are in or out together; the bound for one is that part of theirs.
        noise_ratio: measured / planned std of the noise, over `noise_draws` values.
        gradient_error: largest relative distance from one subject at a time in double precision.
    """

    run: str
    when: str
    plan_hash: str
    software: dict[str, str]
    engine: str
    delta: float
    claimed_mu: float
    claimed_epsilon: float
    lower_mu: float
    lower_epsilon: float
    refuting_mu: float
    largest_mu: float
    observations: int
    canaries: int
    noise_ratio: float
    noise_draws: int
    gradient_error: float
    sees: tuple[str, ...]
    does_not_see: tuple[str, ...]

    def to_json(self) -> str:
        """Write it; `from_json` gives it back equal."""
        return _adapter().dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> StepCertificate:
        """Read it.

        Raises:
            ValueError: a field is missing or of another type.
        """
        return _adapter().validate_json(text)


def mu_lower_bound(observed: Observed, *, confidence: float) -> float:
    """Bound from below the mu of a step that is mu-GDP: no better told apart than N(0, 1) and N(mu, 1) are.

    Some observations choose the statistic, side and threshold; the others are counted, by Clopper and Pearson. Nothing
    is assumed about the observations but that they are independent.

    Guarantees:
        valid: of a step that is mu-GDP it exceeds mu with a chance of at most 1 - confidence.
    Source: Dong, Roth, Su 2019, arXiv:1905.02383; audits of f-DP: Nasr et al. 2023, arXiv:2302.07956.
    """
    least, most = _told_apart(observed, confidence)
    return max(0.0, float(special.ndtri(least) - special.ndtri(most)))


def largest_bound(observations: int, *, confidence: float) -> float:
    """Give the bound that `observations` on either side show where the two cases never look alike."""
    counted = observations - len(range(0, observations, _SELECTING))
    return float(2 * special.ndtri(_least(counted, counted, confidence)))


def wrong_std(values: np.ndarray, std: float, *, alarm: float = ALARM) -> bool:
    """Tell whether independent Gaussians of mean zero have another standard deviation than `std`.

    Guarantees:
        rare alarm: values that have it are refused with a chance of `alarm`.
        power: 2,000 values of 0.8 times the standard deviation are refused, but for one case in a thousand.
    """
    scaled = float(np.square(values / std).sum())
    return bool(min(special.chdtr(values.size, scaled), special.chdtrc(values.size, scaled)) < alarm / 2)


def not_poisson(drawn: np.ndarray, rate: float, *, alarm: float = ALARM) -> str:
    """Say what shows that subjects were not drawn each on its own with chance `rate`: bool [step, subject].

    Looked at: how many were drawn in all, how much the steps' sizes vary, and how many were drawn twice running.
    What is nothing to see is "". A rate so small that a handful is drawn hides the last two.
    """
    steps, subjects = drawn.shape
    if rate == 1:
        return "" if drawn.all() else "somebody was left out of a step that everybody is in"
    if _unlikely(int(drawn.sum()), drawn.size, rate, alarm):
        return f"{drawn.mean():.4g} of the subjects were drawn, not {rate:g}"
    expected = subjects * rate
    spread = float(np.square(drawn.sum(axis=1) - expected).sum() / (expected * (1 - rate)))
    if min(special.chdtr(steps, spread), special.chdtrc(steps, spread)) < alarm / 2:
        return "the steps' sizes do not vary as those of independent draws do"
    again = int((drawn[1:] & drawn[:-1]).sum())
    if _unlikely(again, (steps - 1) * subjects, rate**2, alarm):
        return "who was drawn in one step tells who is in the next"
    return ""


def _told_apart(observed: Observed, confidence: float) -> tuple[float, float]:
    """The smallest chance of a hit and the largest of a false alarm, of a test that some observations chose."""
    chosen = np.arange(len(observed.present)) % _SELECTING == 0
    statistic, sign, threshold = _selected(Observed(observed.present[chosen], observed.absent[chosen]))
    hits, alarms = (sign * side[~chosen, statistic] > threshold for side in (observed.present, observed.absent))
    return float(_least(hits.sum(), len(hits), confidence)), float(_most(alarms.sum(), len(alarms), confidence))


def _selected(some: Observed) -> tuple[int, int, float]:
    """The statistic, its sign and the threshold at which these observations are told apart best."""
    best = (-math.inf, 0, 1, 0.0)
    for statistic in range(some.present.shape[1]):
        for sign in (1, -1):
            present, absent = (np.sort(sign * side[:, statistic]) for side in (some.present, some.absent))
            between = np.quantile(np.concatenate([present, absent]), np.linspace(0, 1, _THRESHOLDS))
            hits, alarms = (len(side) - np.searchsorted(side, between, "right") for side in (present, absent))
            least, most = _least(hits, len(present), CONFIDENCE), _most(alarms, len(absent), CONFIDENCE)
            bounds = special.ndtri(least) - special.ndtri(most)
            place = int(np.argmax(np.where(np.isnan(bounds), -math.inf, bounds)))
            best = max(best, (float(bounds[place]), statistic, sign, float(between[place])))
    return best[1:]


def _least(hits: int | np.ndarray, trials: int, confidence: float) -> np.ndarray:
    """The smallest chance that explains so many hits; Clopper and Pearson 1934."""
    tail = (1 - confidence) / 2
    return np.where(hits == 0, 0.0, special.betaincinv(np.maximum(hits, 1), trials - hits + 1, tail))


def _most(hits: int | np.ndarray, trials: int, confidence: float) -> np.ndarray:
    """The largest chance that explains so few hits."""
    tail = (1 - confidence) / 2
    return np.where(hits == trials, 1.0, special.betaincinv(hits + 1, np.maximum(trials - hits, 1), 1 - tail))


def _unlikely(hits: int, trials: int, chance: float, alarm: float) -> bool:
    return bool(min(special.bdtr(hits, trials, chance), special.bdtrc(hits - 1, trials, chance)) < alarm / 2)


@functools.cache
def _adapter() -> TypeAdapter[StepCertificate]:
    return TypeAdapter(StepCertificate)
