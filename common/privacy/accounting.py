"""What noisy events cost: the figure of a plan fixed beforehand, and two other accountants' figures beside it.

PLD (privacy loss distributions) is the figure; PRV and Renyi (RDP) stand beside it. All three hold for a plan that was
fixed before anything was released; across plans that depend on each other only the Renyi filter of `renyi.py` holds.
dp_accounting and Opacus' formulas are imported where they are needed: they cost seconds, and a plan of unsampled
Gaussians needs neither.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from common.privacy.events import LATTICE_SLACK, Event
from common.privacy.gaussian import gaussian_delta, gaussian_epsilon
from common.privacy.opacus_parts import load_prv_accountant
from common.privacy.renyi import ORDERS, renyi, renyi_epsilon

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

FINE, COARSE = 2e-4, 1e-3
_PRV_ERROR = 0.01
_HOPELESS, _MOST_POINTS, _TINY_DELTA = 1e3, 100_000, 1e-9
_ADJACENT, _REPLACED = "ADD_OR_REMOVE_ONE", "REPLACE_ONE"


def pld_epsilon(events: Iterable[Event], delta: float, *, interval: float = FINE) -> float:
    """Give epsilon at `delta` by privacy loss distributions; neighbours: add or remove one subject.

    Unsampled Gaussians compose to one Gaussian, whose exact curve is used. dp_accounting discretises the sampled
    ones every `interval`. What Renyi puts beyond 1,000 protects nobody and is not worth the time: then it is Renyi's.

    Guarantees:
        pessimistic: never below the true epsilon of the composition ("connect the dots" rounds upwards).

    Raises:
        ValueError: delta is not in (0, 1).
    Source: Koskela, Jalko, Honkela 2020; Doroshenko et al. 2022, arXiv:2207.04380; Balle and Wang 2018.
    """
    _check_delta(delta)
    merged = _merge(events)
    unsampled, sampled, slack = _split(merged)
    if not sampled:
        return gaussian_epsilon(unsampled, delta) + slack
    if (epsilon := renyi_epsilon(renyi(merged), delta)) > _HOPELESS:
        return epsilon
    return _sampled_pld(unsampled, sampled, delta, (interval, _ADJACENT)) + slack


def replace_one_epsilon(events: Iterable[Event], delta: float, *, interval: float = FINE) -> float:
    """Give epsilon at `delta` where neighbours have one subject replaced by another: the promise some readers expect.

    A replaced subject moves an unsampled sum by twice its bound; dp_accounting knows the sampled case.

    Raises:
        ValueError: delta is not in (0, 1).
    """
    _check_delta(delta)
    unsampled, sampled, slack = _split(_merge(events))
    if not sampled:
        return gaussian_epsilon(2 * unsampled, delta) + slack
    return _sampled_pld(2 * unsampled, sampled, delta, (interval, _REPLACED)) + slack


def pld_deltas(events: Iterable[Event], epsilons: Sequence[float]) -> tuple[float, ...]:
    """Give delta at each of `epsilons`, all >= 0: the composition's privacy curve, in its worse direction.

    Raises:
        ValueError: an epsilon is below 0, or they do not rise.
    """
    if list(epsilons) != sorted(epsilons) or not all(epsilon >= 0 for epsilon in epsilons):
        raise ValueError(f"epsilons must be >= 0 and rise, got {epsilons}")
    unsampled, sampled, slack = _split(_merge(events))
    inside = [max(0.0, epsilon - slack) for epsilon in epsilons]
    if not sampled:
        found = [gaussian_delta(unsampled, epsilon) for epsilon in inside]
    elif _spread(unsampled, sampled) > _HOPELESS:
        found = [1.0] * len(inside)
    else:
        found = list(_composed(unsampled, sampled, FINE, _ADJACENT).get_delta_for_epsilon(inside))
    # The curve's slope is nowhere below -1, so that below the slack it cannot rise by more than what is left of it.
    return tuple(
        min(1.0, math.exp(slack) * max(0.0, float(delta)) + max(0.0, slack - epsilon))
        for delta, epsilon in zip(found, epsilons, strict=True)
    )


def prv_epsilon(events: Iterable[Event], delta: float) -> float:
    """Give epsilon at `delta` by Opacus' PRV accountant: its upper bound, with an allowed error of 0.01.

    Raises:
        ValueError: delta is not in (0, 1).
    Source: Gopi, Lee, Wutschitz 2021, arXiv:2106.02848.
    """
    _check_delta(delta)
    unsampled, sampled, slack = _split(_merge(events))
    steps = [(event.noise_multiplier, event.sampling_rate, event.count) for event in sampled]
    if unsampled:  # as one Gaussian
        steps.append((1 / unsampled, 1.0, 1))
    return _opacus_prv(tuple(steps), delta) + slack if steps else 0.0


def rdp_epsilon(events: Iterable[Event], delta: float) -> float:
    """Give epsilon at `delta` by dp_accounting's Renyi accountant, over its own default orders.

    Raises:
        ValueError: delta is not in (0, 1).
    Source: Mironov, Talwar, Zhang 2019, arXiv:1908.10530; conversion of Canonne, Kamath, Steinke 2020.
    """
    _check_delta(delta)
    unsampled, sampled, slack = _split(_merge(events))
    return _dp_accounting_rdp(unsampled, sampled, delta) + slack if unsampled or sampled else 0.0


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}")


def _merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """Add up the counts of equal events, in a fixed order."""
    counts: dict[tuple[str, float, float], int] = {}
    for event in events:
        key = (event.mechanism, event.noise_multiplier, event.sampling_rate)
        counts[key] = counts.get(key, 0) + event.count
    return tuple(
        Event("gaussian" if key[0] == "gaussian" else "discrete_gaussian", key[1], key[2], count)
        for key, count in sorted(counts.items())
        if count
    )


def _split(events: Sequence[Event]) -> tuple[float, tuple[Event, ...], float]:
    """All unsampled events as one Gaussian (its sensitivity / std), the sampled ones, and the lattice's slack.

    Discrete Gaussian shares cost what one Gaussian costs, up to that slack.
    """
    unsampled = [event for event in events if event.sampling_rate == 1]
    slack = LATTICE_SLACK * sum(event.count for event in events if event.mechanism == "discrete_gaussian")
    ratio = math.sqrt(math.fsum(event.count / event.noise_multiplier**2 for event in unsampled))
    return ratio, tuple(event for event in events if event.sampling_rate < 1), slack


@lru_cache(maxsize=256)
def _sampled_pld(unsampled: float, sampled: tuple[Event, ...], delta: float, how: tuple[float, str]) -> float:
    return float(_composed(unsampled, sampled, *how).get_epsilon_for_delta(delta))


def _composed(unsampled: float, sampled: tuple[Event, ...], interval: float, relation: str) -> PrivacyLossDistribution:
    """The privacy loss distribution of all events together, in both directions.

    Where the loss is far beyond what protects anybody its grid is coarser, so that no plan takes gigabytes to read.
    """
    from dp_accounting import NeighboringRelation  # noqa: PLC0415  (two seconds: only where a plan samples)
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism, identity  # noqa: PLC0415

    interval = max(interval, _spread(unsampled, sampled) / _MOST_POINTS)
    total = identity(value_discretization_interval=interval)
    if unsampled:
        # The sensitivity was doubled already where neighbours replace: one Gaussian, whatever the relation is called.
        total = total.compose(from_gaussian_mechanism(1 / unsampled, value_discretization_interval=interval))
    for event in sampled:
        single = from_gaussian_mechanism(
            event.noise_multiplier,
            value_discretization_interval=interval,
            sampling_prob=event.sampling_rate,
            neighboring_relation=NeighboringRelation[relation],
        )
        total = total.compose(single.self_compose(event.count))
    return total


def _spread(unsampled: float, sampled: tuple[Event, ...]) -> float:
    """How large losses get: epsilon at a delta that nobody asks for."""
    rhos = [rho + order * unsampled**2 / 2 for order, rho in zip(ORDERS, renyi(sampled), strict=True)]
    return renyi_epsilon(rhos, _TINY_DELTA)


@lru_cache(maxsize=256)
def _opacus_prv(steps: tuple[tuple[float, float, int], ...], delta: float) -> float:
    import numpy as np  # noqa: PLC0415

    accountant = load_prv_accountant()()
    accountant.history = list(steps)
    # log(1 - q) at q = 1; and a remark that the safe domain, which Renyi orders are used for, could be smaller.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        return float(accountant.get_epsilon(delta, eps_error=_PRV_ERROR))


@lru_cache(maxsize=256)
def _dp_accounting_rdp(unsampled: float, sampled: tuple[Event, ...], delta: float) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent  # noqa: PLC0415
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    accountant = RdpAccountant()
    if unsampled:
        accountant.compose(GaussianDpEvent(1 / unsampled))
    with _without_remarks():
        for event in sampled:
            step = PoissonSampledDpEvent(event.sampling_rate, GaussianDpEvent(event.noise_multiplier))
            accountant.compose(step, event.count)
    return float(accountant.get_epsilon(delta))


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep dp_accounting from telling the user of each order that its series leaves out: the others bound it too."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


__all__ = [
    "COARSE",
    "FINE",
    "ORDERS",
    "pld_deltas",
    "pld_epsilon",
    "prv_epsilon",
    "rdp_epsilon",
    "renyi",
    "renyi_epsilon",
    "replace_one_epsilon",
]
