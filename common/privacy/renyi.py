"""Renyi accounting and the filter that the ledger enforces, in plain floating point: no library, no start-up cost.

PLD is not a valid filter across runs whose plans depend on what earlier runs released (arXiv:2602.06756). Renyi
divergences of one order add up under any adaptivity, so a sum held below a bound is a filter (Feldman and Zrnic,
arXiv:2008.11193). That theorem is for *one* order, fixed before the first release. Letting every new charge pick
whichever order still has room is the same thing when all charges have proportional curves (unsampled Gaussians, or the
same plan again), but is not proved for mixtures: an analyst who chooses the next mechanism after seeing the last answer
chooses the order with it. So one order is fixed before anything is asked for, out of the institution's own lifetime
budget and nothing else (`filter_order`): a server that could choose it, through the first plan that it sends, could
choose one at which no honest run ever fits. For unsampled Gaussians it has as much room as any order.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache

from common.privacy.events import LATTICE_SLACK, Event

ORDERS: tuple[float, ...] = (
    *(1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 3.75, 4, 4.25, 4.5, 4.75, 5, 5.5, 6, 6.5, 7, 7.5, 8),
    *(9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 44, 48, 56, 64),
    *(80, 96, 128, 192, 256, 512),
)
_ULPS, _ROUNDING = 1e-15, 1e-10


def renyi(events: Iterable[Event]) -> tuple[float, ...]:
    """Give the Renyi divergence rho_a of the events' composition, for every order a of ORDERS.

    Unsampled: a / (2 z^2). Sampled: the binomial formula at whole orders; between two whole orders the line
    between their (a - 1) rho_a, which is convex in a, so that the line is never below it. A discrete Gaussian event has
    the Gaussian's divergence plus the slack that lattice.share_std derives.

    Guarantees:
        never too small: every figure is rounded up, by a relative 1e-8 at most where the formula is exact.

    Source: Mironov 2017, proposition 7; Mironov, Talwar, Zhang 2019, arXiv:1908.10530, section 3.3.
    """
    totals = [0.0] * len(ORDERS)
    for event in events:
        slack = LATTICE_SLACK if event.mechanism == "discrete_gaussian" else 0.0
        curve = _curve(event.noise_multiplier, event.sampling_rate)
        totals = [total + event.count * (rho + slack) for total, rho in zip(totals, curve, strict=True)]
    return tuple(totals)


def renyi_epsilon(rhos: Sequence[float], delta: float) -> float:
    """Give epsilon at `delta` of a composition that was fixed beforehand: the smallest over the orders."""
    if not any(rhos):
        return 0.0
    return max(0.0, min(epsilon_at(order, rho, delta) for order, rho in zip(ORDERS, rhos, strict=True)))


def epsilon_at(order: float, rho: float, delta: float) -> float:
    """Give epsilon at `delta` of a Renyi divergence `rho` of one order.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010v5, proposition 12.
    """
    return rho + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def renyi_bound(order: float, epsilon: float, delta: float) -> float:
    """Give the largest sum of divergences of one order that still is (epsilon, delta)-DP; below 0: none is."""
    return epsilon - math.log1p(-1 / order) + (math.log(delta) + math.log(order)) / (order - 1)


def filter_order(epsilon: float, delta: float) -> float:
    """Choose the order at which a filter of this lifetime budget works: the one with most room for unsampled Gaussians.

    Their divergence is proportional to the order, whatever their noise, so that the budget alone decides.
    """
    return max(ORDERS, key=lambda order: renyi_bound(order, epsilon, delta) / order)


@lru_cache(maxsize=1024)
def _curve(noise_multiplier: float, sampling_rate: float) -> tuple[float, ...]:
    inverse = 1 / noise_multiplier
    precision = inverse * inverse / 2 * (1 + _ULPS)  # 1 / (2 z^2), rounded up; infinite rather than an error
    if sampling_rate == 1:
        return tuple(order * precision for order in ORDERS)
    return tuple(_sampled(precision, sampling_rate, order) / (order - 1) for order in ORDERS)


def _sampled(precision: float, sampling_rate: float, order: float) -> float:
    """(order - 1) rho of the Poisson-sampled Gaussian, by the line between whole orders."""
    below, part = math.floor(order), order - math.floor(order)
    if not part:
        return _log_moment(precision, sampling_rate, below)
    ends = (_log_moment(precision, sampling_rate, whole) for whole in (below, below + 1))
    return (1 - part) * next(ends) + part * next(ends)


@lru_cache(maxsize=4096)
def _log_moment(precision: float, sampling_rate: float, order: int) -> float:
    """Logarithm of sum_k binomial(order, k) (1-q)^(order-k) q^k exp((k^2 - k) / (2 z^2)), rounded up.

    Without the exponentials the sum is 1, so it is 1 + sum_k binomial(order, k) (1-q)^(order-k) q^k
    (exp((k^2 - k) / (2 z^2)) - 1), and no term is below 0: however small, none is lost beside the 1. Every term's
    logarithm adds numbers below 2e4 beside the exponent itself, each rounded once: an error below 1e-11.
    """
    if order == 1:
        return 0.0
    log_in, log_out = math.log(sampling_rate), math.log1p(-sampling_rate)
    terms = [
        chosen + k * log_in + (order - k) * log_out + _log_expm1((k * k - k) * precision)
        for k, chosen in enumerate(_log_binomials(order)) if k > 1
    ]  # fmt: skip
    largest = max(terms)
    if math.isinf(largest):  # hardly any noise: inf - inf would be NaN, and cost nothing
        return math.inf
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    log_moment = total + math.log1p(math.exp(-total)) if total > 0 else math.log1p(math.exp(total))
    return max(log_moment, sys.float_info.min) * (1 + _ROUNDING)


def _log_expm1(value: float) -> float:
    """log(exp(value) - 1) for value > 0; where exp would overflow it is value itself, rounded up."""
    return value + math.log(-math.expm1(-value))


@lru_cache(maxsize=len(ORDERS))
def _log_binomials(order: int) -> tuple[float, ...]:
    return tuple(math.log(math.comb(order, k)) for k in range(order + 1))
