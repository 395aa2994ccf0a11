"""Figures that others published, or that a second accountant computes, met to the digits they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest

from common.privacy.accounting import (
    pld_epsilon,
    prv_epsilon,
    rdp_epsilon,
    replace_one_epsilon,
)
from common.privacy.events import LATTICE_SLACK, Event
from common.privacy.gaussian import gaussian_delta, gaussian_epsilon
from common.privacy.opacus_parts import load_opacus_package
from common.privacy.renyi import ORDERS, renyi, renyi_epsilon

Accountant = Callable[[Iterable[Event], float], float]

# 2,000 subjects, 64 expected in each of 500 steps, sigma 1, delta 1e-5.
REFERENCE = (Event("gaussian", 1.0, 64 / 2000, 500),)


@pytest.mark.parametrize(("accountant", "figure"), [(pld_epsilon, 4.605), (prv_epsilon, 4.616), (rdp_epsilon, 5.131)])
def test_three_accountants_meet_the_reference_figures(accountant: Accountant, figure: float) -> None:
    assert accountant(REFERENCE, 1e-5) == pytest.approx(figure, abs=1e-3)


def test_replacing_one_subject_costs_more_than_removing_one() -> None:
    assert replace_one_epsilon(REFERENCE, 1e-5) == pytest.approx(7.19, abs=5e-3)


def test_the_ledgers_renyi_figure_is_just_above_the_renyi_accountants() -> None:
    assert 5.131 <= renyi_epsilon(renyi(REFERENCE), 1e-5) <= 5.131 * 1.015


@pytest.mark.parametrize(
    ("event", "published"),
    [
        # Abadi et al. 2016, arXiv:1607.00133, section 3.2: q 0.01, sigma 4, 10,000 steps, delta 1e-5.
        (Event("gaussian", 4.0, 0.01, 10_000), 1.26),
        # TensorFlow Privacy's example: N 60,000, batch 256, noise 1.12, 60 epochs, delta 1e-5.
        (Event("gaussian", 1.12, 256 / 60_000, 14_063), 2.92),
    ],
)
def test_renyi_curve_meets_published_figures_under_their_older_conversion(event: Event, published: float) -> None:
    rhos = renyi([event])
    older = min(rho + math.log(1e5) / (order - 1) for order, rho in zip(ORDERS, rhos, strict=True))
    assert older == pytest.approx(published, abs=5e-3)
    assert pld_epsilon([event], 1e-5) < renyi_epsilon(rhos, 1e-5) < older


def test_one_gaussian_meets_balle_and_wangs_closed_form() -> None:
    # Their calibration of sigma for epsilon 1, delta 1e-5, sensitivity 1, as several libraries print it.
    assert gaussian_delta(1 / 3.730631634944469, 1.0) == pytest.approx(1e-5, rel=1e-8)
    assert gaussian_delta(1.0, 1.0) == pytest.approx(0.12693673750664, rel=1e-12)
    assert gaussian_delta(1.0, 0.0) == pytest.approx(0.3829249225480263, rel=1e-12)  # P(|N(0,1)| < 1/2)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.5, 4.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_closed_form_equals_dp_accountings_pld(ratio: float, delta: float) -> None:
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism  # noqa: PLC0415

    second = from_gaussian_mechanism(1 / ratio).get_epsilon_for_delta(delta)
    assert gaussian_epsilon(ratio, delta) == pytest.approx(second, abs=2e-6)


def test_mixed_events_cost_the_same_by_every_accountant() -> None:
    events = (Event("discrete_gaussian", 3.0, 1.0, 1), Event("gaussian", 4.0, 1.0, 20), Event("gaussian", 2.0, 0.2, 30))
    pld = pld_epsilon(events, 1e-4)
    assert pld <= prv_epsilon(events, 1e-4) <= pld + 0.02
    assert pld < rdp_epsilon(events, 1e-4) < 1.25 * pld
    assert renyi_epsilon(renyi(events), 1e-4) >= rdp_epsilon(events, 1e-4) - 1e-9


@pytest.mark.parametrize(("rate", "noise"), [(0.001, 0.6), (0.01, 1.0), (0.1, 0.8), (0.5, 2.0), (0.9, 5.0)])
def test_renyi_curve_of_a_sampled_gaussian_equals_opacus_at_whole_orders_and_is_above_between(
    rate: float, noise: float
) -> None:
    load_opacus_package()
    from opacus.accountants.analysis.rdp import _compute_rdp  # noqa: PLC0415

    for order, rho in zip(ORDERS, renyi([Event("gaussian", noise, rate, 1)]), strict=True):
        if order == int(order):
            assert rho == pytest.approx(_compute_rdp(rate, noise, int(order)), rel=1e-6, abs=1e-12)
    whole = [(order - 1) * rho for order, rho in zip(ORDERS, renyi([Event("gaussian", 2.0, 1.0, 1)]), strict=True)]
    assert whole == sorted(whole)


@pytest.mark.parametrize(
    ("rate", "noise", "steps"), [(1.0, 134.8, 60), (0.5, 67.58, 60), (0.05, 4.86, 500), (0.5, 1.97, 60)]
)
def test_accountants_agree_without_a_word_to_the_user_at_the_ends_of_the_range(
    rate: float, noise: float, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    events = [Event("gaussian", noise, rate, steps)]
    pld = pld_epsilon(events, 1e-3)
    assert pld <= prv_epsilon(events, 1e-3) <= pld + 0.02
    assert pld < rdp_epsilon(events, 1e-3) < 1.3 * pld
    assert caplog.records == []


def test_a_table_is_charged_the_slack_of_its_lattice() -> None:
    smooth, table = Event("gaussian", 2.0, 1.0, 3), Event("discrete_gaussian", 2.0, 1.0, 3)
    assert pld_epsilon([table], 1e-5) == pytest.approx(pld_epsilon([smooth], 1e-5) + 3 * LATTICE_SLACK, rel=1e-12)
    assert renyi([table])[5] == pytest.approx(renyi([smooth])[5] + 3 * LATTICE_SLACK, rel=1e-12)


@pytest.mark.parametrize("accountant", [pld_epsilon, prv_epsilon, rdp_epsilon, replace_one_epsilon])
def test_delta_outside_0_to_1_is_refused_by_name(accountant: Accountant) -> None:
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1\), got 0"):
        accountant(REFERENCE, 0)


@pytest.mark.parametrize("accountant", [pld_epsilon, prv_epsilon, rdp_epsilon, replace_one_epsilon])
def test_nothing_released_costs_nothing(accountant: Accountant) -> None:
    assert accountant([], 1e-5) == 0
    assert accountant([Event("gaussian", 1.0, 0.5, 0)], 1e-5) == 0
