"""The verifier's arithmetic, against exact sums, published figures and a second accountant."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from common.verify.divergence import divergence, epsilon_of

ORDERS = (1.25, 1.5, 1.75, 2, 2.5, 3, 4.75, 5, 7, 8, 16, 32, 64, 128, 256, 512)


def exact_moment(noise: float, rate: float, order: int) -> float:
    """The logarithm of the binomial sum of docs/ledger.md, to fifty digits."""
    with decimal.localcontext(decimal.Context(prec=50, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)):
        q, twice_variance = Decimal(rate), 2 * Decimal(noise) ** 2
        total = sum(
            math.comb(order, k) * (1 - q) ** (order - k) * q**k * (Decimal(k * k - k) / twice_variance).exp()
            for k in range(order + 1)
        )
        return float(Decimal(total).ln())


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0, 4.0, 60.0])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.3, 0.999])
def test_integration_gives_what_the_exact_sum_gives(noise: float, rate: float) -> None:
    for order in (2, 3, 7, 32, 512):
        exact = exact_moment(noise, rate, order) / (order - 1)
        assert divergence("gaussian", noise, rate, order) == pytest.approx(exact, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.032), (0.7, 0.2), (3.0, 0.01), (0.4, 0.9)])
def test_a_second_accountant_gives_the_same_at_whole_orders_and_no_more_between_them(noise: float, rate: float) -> None:
    accountant = RdpAccountant(list(ORDERS))
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    for order, rho in zip(ORDERS, accountant._rdp, strict=True):
        ours = divergence("gaussian", noise, rate, order)
        if float(order).is_integer():
            assert ours == pytest.approx(rho, rel=1e-8)
        elif math.isfinite(rho):  # its series does not converge everywhere
            assert ours >= rho * (1 - 1e-9)


def test_a_gaussian_costs_its_closed_form_and_a_discrete_one_a_little_more() -> None:
    assert divergence("gaussian", 2.0, 1.0, 3.0) == 3 / 8
    assert divergence("discrete_gaussian", 2.0, 1.0, 3.0) == pytest.approx(3 / 8 + 1e-7, rel=1e-15)


def test_a_sampled_gaussian_of_rate_almost_one_costs_almost_that() -> None:
    assert divergence("gaussian", 2.0, 1 - 1e-12, 3) == pytest.approx(3 / 8, rel=1e-9)


def test_between_whole_orders_it_is_the_line_between_the_moments() -> None:
    below, above = exact_moment(1.0, 0.1, 3), exact_moment(1.0, 0.1, 4)
    assert divergence("gaussian", 1.0, 0.1, 3.25) == pytest.approx((0.75 * below + 0.25 * above) / 2.25, rel=1e-12)
    assert divergence("gaussian", 1.0, 0.1, 1.5) == pytest.approx(exact_moment(1.0, 0.1, 2), rel=1e-12)


def test_published_figures_under_the_older_conversion() -> None:
    # Abadi et al. 2016, arXiv:1607.00133, section 3.2; and TensorFlow Privacy's example.
    for noise, rate, steps, published in ((4.0, 0.01, 10_000, 1.26), (1.12, 256 / 60_000, 14_063, 2.92)):
        orders = [*range(2, 65), 128, 256]
        older = min(
            steps * divergence("gaussian", noise, rate, order) + math.log(1e5) / (order - 1) for order in orders
        )
        assert older == pytest.approx(published, abs=5e-3)


def test_the_reference_runs_renyi_figure() -> None:
    # 2,000 subjects, 64 expected in each of 500 steps, noise 1, delta 1e-5: 5.131 over all real orders.
    orders = [1 + number / 4 for number in range(1, 100)]
    found = min(epsilon_of(order, 500 * divergence("gaussian", 1.0, 0.032, order), 1e-5) for order in orders)
    assert 5.131 <= found <= 5.131 * 1.015


def test_nothing_costs_nothing() -> None:
    assert epsilon_of(2.0, 0.0, 1e-5) == 0.0
