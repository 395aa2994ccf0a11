"""Renyi divergences of the mechanisms by numerical integration of their definition, and the formula to epsilon.

A Poisson-sampled Gaussian of sensitivity 1 has, with and without one subject, the densities m = (1-q) p_0 + q p_1 and
p_0, where p_k is the normal density around k of standard deviation z. Its divergence at order a is the logarithm of
the integral of p_0 (m / p_0)^a, over a - 1; the other direction is smaller (Mironov, Talwar, Zhang 2019,
arXiv:1908.10530). At a whole order the integrand is a positive sum of normal densities around 0, 1, ..., a of standard
deviation z. The sum of such a density over a grid of step h differs from its integral by a share of
2 exp(-2 pi^2 z^2 / h^2), which is 1e-34 at h = z / 2: the plain sum is as exact as floats are.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

LATTICE_SLACK = 1e-7
"""What a discrete Gaussian costs beyond the continuous one, at every order."""
_REACH = 12.0
"""Standard deviations beyond the outermost peaks; what lies outside is a share of 1e-32."""


def divergence(mechanism: str, noise_multiplier: float, sampling_rate: float, order: float) -> float:
    """Give the Renyi divergence of one release at an order above 1.

    Between two whole orders of a sampled Gaussian it is the line between their (order - 1) times the divergence, which
    is convex in the order, so that the line is not below it.
    """
    slack = LATTICE_SLACK if mechanism == "discrete_gaussian" else 0.0
    if sampling_rate == 1:
        return order / (2 * noise_multiplier**2) + slack
    below = math.floor(order)
    ends = [_log_moment(noise_multiplier, sampling_rate, whole) for whole in (below, math.ceil(order))]
    return (ends[0] + (order - below) * (ends[1] - ends[0])) / (order - 1) + slack


def epsilon_of(order: float, rho: float, delta: float) -> float:
    """Turn a Renyi divergence at one order into epsilon at delta.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, proposition 12.
    """
    if rho == 0:
        return 0.0
    return rho + math.log(1 - 1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


@lru_cache(maxsize=65536)
def _log_moment(noise_multiplier: float, sampling_rate: float, order: int) -> float:
    """The logarithm of the integral of p_0 (m / p_0)^order."""
    if order == 1:
        return 0.0
    variance, step = noise_multiplier**2, noise_multiplier / 2
    points = np.arange(-_REACH * noise_multiplier, order + _REACH * noise_multiplier, step)
    ratio = np.logaddexp(math.log1p(-sampling_rate), math.log(sampling_rate) + (2 * points - 1) / (2 * variance))
    logs = order * ratio - points**2 / (2 * variance)
    highest = float(logs.max())
    total = float(np.exp(logs - highest).sum()) * step / math.sqrt(2 * math.pi * variance)
    return max(0.0, highest + math.log(total))
