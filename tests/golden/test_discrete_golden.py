"""The discrete Gaussian of counts against its exact distribution: Canonne, Kamath, Steinke 2020, arXiv:2004.00010."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_discrete_gaussian_mechanism

from common.privacy.accounting import pld_deltas, pld_epsilon
from common.privacy.events import LATTICE_SLACK, Event
from common.privacy.lattice import share_std
from common.privacy.renyi import ORDERS, renyi

Array = np.ndarray


def masses(std: float, places: Array, *, middle: int = 0) -> Array:
    """Probabilities of the discrete Gaussian about `middle`, from its definition."""
    reach = np.arange(-60 * math.ceil(std), 60 * math.ceil(std) + 1.0)
    total = np.exp(-(reach**2) / (2 * std**2)).sum()
    return np.asarray(np.exp(-((places - middle) ** 2) / (2 * std**2)) / total)


def exact_renyi(std: float, shift: int, order: float) -> float:
    """The divergence of order `order` between the noise and the noise moved by `shift`, summed in logarithms."""
    places = np.arange(-60 * math.ceil(std) - 600 * shift, 60 * math.ceil(std) + 600 * shift + 1.0)
    log_total = math.log(np.exp(-(places**2) / (2 * std**2)).sum())
    logs = -order * (places - shift) ** 2 / (2 * std**2) - (1 - order) * places**2 / (2 * std**2) - log_total
    largest = logs.max()
    return float((largest + np.log(np.exp(logs - largest).sum())) / (order - 1))


@pytest.mark.parametrize("std", [0.4, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("shift", [1, 2])
def test_its_renyi_divergences_are_the_continuous_ones_at_whole_orders_and_below_them_between(
    std: float, shift: int
) -> None:
    """Proposition 5: at most order * shift^2 / (2 std^2); equal where order * shift is whole."""
    charged = renyi([Event("discrete_gaussian", std / shift, 1.0, 1)])
    for order, rho in zip(ORDERS, charged, strict=True):
        exact = exact_renyi(std, shift, order)
        assert exact <= rho
        if order == int(order):
            assert exact == pytest.approx(rho - LATTICE_SLACK, rel=1e-8)
    if std < 1:  # far below at a fractional order: what is charged is a bound, not an equation
        assert exact_renyi(std, 1, 2.5) < 2.5 / (2 * std**2) * 0.99


def exact_delta(std: float, shift: int, epsilon: float, times: int) -> float:
    """Delta of `times` tables, exactly: the privacy loss is linear in the outcome, and outcomes add up."""
    places = np.arange(-40 * math.ceil(std), 40 * math.ceil(std) + 1.0)
    single = masses(std, places)
    noise = single
    for _ in range(times - 1):
        noise = np.convolve(noise, single)
    total = np.arange(len(noise)) + times * places[0]  # sum of the noise in all tables
    loss = shift * (2 * total + times * shift) / (2 * std**2)  # of outcomes that were moved by `shift` each
    return float((noise * np.clip(1 - np.exp(np.minimum(epsilon - loss, 0)), 0, None)).sum())


@pytest.mark.parametrize(("std", "shift"), [(1.0, 1), (2.0, 1), (4.0, 2), (0.5, 1)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.7])
def test_the_exact_delta_is_dp_accountings_and_never_above_what_is_charged(
    std: float, shift: int, epsilon: float
) -> None:
    second = from_discrete_gaussian_mechanism(std, sensitivity=shift).self_compose(3).get_delta_for_epsilon(epsilon)
    exact = exact_delta(std, shift, epsilon, 3)
    assert second == pytest.approx(exact, rel=1e-3, abs=1e-12)
    # What is charged as `multiplier` is drawn with a variance of 2 more: lattice.share_std.
    variance = std**2 - 2
    if variance > 0:
        multiplier = math.sqrt(variance) / shift
        assert share_std(shift, multiplier, 1) == pytest.approx(std)
        (charged,) = pld_deltas([Event("discrete_gaussian", multiplier, 1.0, 3)], [epsilon])
        assert exact <= charged


@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_a_wide_table_costs_what_a_gaussian_costs(delta: float) -> None:
    multiplier, sensitivity = 2.0, 10
    second = from_discrete_gaussian_mechanism(share_std(sensitivity, multiplier, 1), sensitivity=sensitivity)
    epsilon = pld_epsilon([Event("discrete_gaussian", multiplier, 1.0, 1)], delta)
    assert 0.98 * epsilon < second.get_epsilon_for_delta(delta) <= epsilon
