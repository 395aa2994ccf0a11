"""What runs add up to, who pays for them, and what other samplings would cost: each figure from where it comes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import TruncatedSubsampledGaussianDpEvent
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism, from_mixture_gaussian_mechanism
from scipy.stats import binom, norm

from client.ledger_account import BudgetRefused
from common.privacy.accounting import pld_epsilon, prv_epsilon, rdp_epsilon
from common.privacy.calibrate import Budget, calibrate_noise
from common.privacy.events import Charge, Event
from common.privacy.renyi import ORDERS, epsilon_at, filter_order, renyi, renyi_epsilon
from tests.ledger_bench import LedgerBench

# 2,000 subjects, 64 expected in each of 500 steps, sigma 1, delta 1e-5.
RATE, STEPS, DELTA = 64 / 2000, 500, 1e-5
COARSE = 1e-3  # interval of the second accountant's grid


# The unit.


@pytest.mark.parametrize(("records", "figure"), [(1, 4.6), (2, 10.4), pytest.param(4, 24.6, marks=pytest.mark.slow)])
def test_rows_that_are_drawn_and_clipped_one_by_one_cost_a_patient_with_several_far_more(
    records: int, figure: float
) -> None:
    """With k records, each drawn with chance q and clipped alone, a patient moves a step by binomial(k, q) norms."""
    chances = [float(binom.pmf(drawn, records, RATE)) for drawn in range(records + 1)]
    step = from_mixture_gaussian_mechanism(1.0, list(range(records + 1)), chances, value_discretization_interval=COARSE)
    assert step.self_compose(STEPS).get_epsilon_for_delta(DELTA) == pytest.approx(figure, abs=0.05)


def test_group_privacy_alone_would_say_even_more() -> None:
    """(epsilon, delta) for one row is (2 epsilon, delta (1 + e^epsilon)) for two: Vadhan 2017, section 2."""
    curve = from_gaussian_mechanism(1.0, sampling_prob=RATE, value_discretization_interval=COARSE).self_compose(STEPS)
    epsilons = np.arange(1.0, 10.0, 0.001)
    kept = epsilons[curve.get_delta_for_epsilon(epsilons) * (1 + np.exp(epsilons)) <= DELTA]
    assert 2 * kept[0] == pytest.approx(12.65, abs=0.01)


# Ten runs of 200 steps.

RUN = Event("gaussian", 1.0, RATE, 200)
RUNS = 10


def test_ten_runs_cost_less_as_one_plan_than_by_any_filter() -> None:
    all_of_them = [RUN] * RUNS
    assert pld_epsilon(all_of_them, DELTA) == pytest.approx(9.666, abs=2e-3)
    assert prv_epsilon(all_of_them, DELTA) == pytest.approx(9.68, abs=0.01)
    assert rdp_epsilon(all_of_them, DELTA) == pytest.approx(10.518, abs=2e-3)
    assert renyi_epsilon(renyi(all_of_them), DELTA) == pytest.approx(10.520, abs=2e-3)


def test_the_filter_asks_for_as_much_as_its_one_order_needs() -> None:
    """Which order that is, the lifetime budget says alone; between whole orders the line costs a little."""
    costs = renyi([RUN] * RUNS)
    needed = {order: epsilon_at(order, costs[ORDERS.index(order)], DELTA) for order in (3, 3.25, 3.5)}
    assert needed == pytest.approx({3: 10.520, 3.25: 10.850, 3.5: 11.117}, abs=2e-3)
    assert [filter_order(budget, DELTA) for budget in (10.0, 10.9, 11.8)] == [3.5, 3.25, 3]


@pytest.mark.parametrize(("lifetime", "fit"), [(10.8, 9), (10.9, 10), (11.8, 12)])
def test_as_many_runs_fit_into_a_real_ledger(tmp_path: Path, lifetime: float, fit: int) -> None:
    bench = LedgerBench(tmp_path, lifetime_epsilon=lifetime, delta=DELTA)
    charges = (Charge("train", "training", RUN),)
    with bench.open() as ledger:
        for number in range(fit):
            ledger.reserve(f"run-{number}", "plan", charges)
        with pytest.raises(BudgetRefused):
            ledger.reserve("one-more", "plan", charges)
        assert ledger.spent().spent <= lifetime
        if fit == RUNS:
            assert ledger.spent().spent == pytest.approx(10.520, abs=2e-3)


def test_ten_runs_for_8_by_a_filter_and_7_37_as_a_plan_take_more_noise() -> None:
    """The design says 8.03 and 7.37 at sigma 1, where three accountants say 10.5 and 9.7; sigma 1.16 comes close."""
    quieter = Event("gaussian", 1.1585, RATE, RUNS * RUN.count)
    assert pld_epsilon([quieter], DELTA) == pytest.approx(7.37, abs=5e-3)
    assert rdp_epsilon([quieter], DELTA) == pytest.approx(8.03, abs=0.02)


# Repeat and select, for comparison.


def test_picking_the_best_of_about_ten_unseen_runs_would_cost_less_than_releasing_ten() -> None:
    """Papernot and Steinke 2022, arXiv:2110.03620, theorem 2, number of runs geometric (eta 1) with mean 1 / gamma.

    It needs that nobody sees the runs that were not picked. Here the server sees a sum of every round of every run.
    """
    eta, gamma = 1.0, 0.1
    rhos = renyi([RUN])
    other, at_other = min(
        zip(ORDERS, rhos, strict=True), key=lambda at: (1 - 1 / at[0]) * at[1] + math.log(1 / gamma) / at[0]
    )
    extra = (1 + eta) * ((1 - 1 / other) * at_other + math.log(1 / gamma) / other)
    selected = [rho + extra + math.log(1 / gamma) / (order - 1) for order, rho in zip(ORDERS, rhos, strict=True)]
    figure = renyi_epsilon(selected, DELTA)
    assert figure == pytest.approx(6.34, abs=0.01)
    assert renyi_epsilon(rhos, DELTA) == pytest.approx(3.47, abs=0.01)
    assert renyi_epsilon(renyi([RUN] * RUNS), DELTA) == pytest.approx(10.52, abs=0.01)


# Whole institutions as the unit.


@pytest.mark.parametrize(("rounds", "noise"), [(1, 0.600), (44, 3.98), (60, 4.65), (100, 6.00), (177, 7.99)])
def test_hiding_a_whole_institution_takes_sigma_4_to_8_for_epsilon_8(rounds: int, noise: float) -> None:
    """All institutions take part in every round, so nothing is sampled: unsampled Gaussians, one a round."""
    found = calibrate_noise(Budget(8.0, DELTA), Event("gaussian", 1.0, 1.0, rounds))
    assert found == pytest.approx(noise, abs=5e-3)
    second = from_gaussian_mechanism(found / math.sqrt(rounds), value_discretization_interval=COARSE)
    assert second.get_epsilon_for_delta(DELTA) == pytest.approx(8.0, abs=2e-3)


# Sampling that is cut off at a fixed number of subjects.


def truncated(subjects: int, most: int) -> float:
    """Epsilon of the reference run if each step took at most `most` subjects, by dp_accounting's event for it."""
    accountant = PLDAccountant(value_discretization_interval=COARSE)
    accountant.compose(TruncatedSubsampledGaussianDpEvent(subjects, RATE, most, 1.0), STEPS)
    return float(accountant.get_epsilon(DELTA))


@pytest.mark.parametrize(("most", "figure"), [(64, 20.56), (80, 8.58), (96, 4.713), (112, 4.6057), (128, 4.6057)])
def test_a_cut_sample_costs_never_less_than_the_whole_one(most: int, figure: float) -> None:
    assert truncated(2000, most) == pytest.approx(figure, rel=1e-3)
    assert truncated(2000, most) >= pld_epsilon([Event("gaussian", 1.0, RATE, STEPS)], DELTA)


def test_what_a_cut_sample_costs_depends_on_how_many_subjects_there_really_are() -> None:
    assert truncated(2200, 96) == pytest.approx(5.98, abs=0.01)
    assert truncated(2200, 96) > truncated(2000, 96) + 1


def test_room_for_twice_as_many_as_expected_is_needed_before_nobody_is_ever_cut() -> None:
    """Cut and whole sampling differ with a chance beta a run, which costs (1 + e^epsilon) beta of delta."""
    for room, enough in ((112, False), (120, False), (128, True)):
        beta = STEPS * float(binom.sf(room, 2000, RATE))
        assert ((1 + math.exp(4.605)) * beta < DELTA / 500) == enough


@pytest.mark.parametrize(("noise", "rate", "epsilon"), [(1.0, 0.3, 2.0), (2.0, 0.6, 2.0), (2.0, 0.3, 1.0)])
def test_a_cut_sample_accounted_as_a_whole_one_is_wrong_whether_the_subject_is_zeroed_or_gone(
    noise: float, rate: float, epsilon: float
) -> None:
    """Two subjects, +1 and -1, at most one in a step: whether the first is there decides whether the second is cut."""
    grid = np.linspace(-30, 30, 200_001)

    def density(*weights: float) -> np.ndarray:
        return np.asarray(sum(w * norm.pdf(grid, at, noise) for at, w in zip((-1, 0, 1), weights, strict=True)))

    def delta(with_it: np.ndarray, without: np.ndarray) -> float:
        pairs = ((with_it, without), (without, with_it))
        return max(float(np.clip(a - math.exp(epsilon) * b, 0, None).sum() * (grid[1] - grid[0])) for a, b in pairs)

    taken = rate - rate**2 / 2  # drawn, and not cut
    both = density(taken, 1 - 2 * taken, taken)
    whole = delta(density(0, 1 - rate, rate), density(0, 1, 0))
    assert delta(both, density(taken, 1 - taken, 0)) > whole
    assert delta(both, density(rate, 1 - rate, 0)) > whole
