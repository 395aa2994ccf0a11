"""Calibration keeps its promise, whatever it is asked: never above the target, never far below."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from common.config import PrivacyConfig
from common.privacy.accounting import FINE, pld_epsilon
from common.privacy.calibrate import Budget, calibrate_noise
from common.privacy.events import Event
from common.privacy.gaussian import gaussian_delta, gaussian_epsilon
from common.privacy.plan import make_plan
from common.privacy.renyi import ORDERS, filter_order, renyi, renyi_bound, renyi_epsilon

Tables = dict[str, tuple[str, float]]
epsilons = st.floats(0.05, 20)
deltas = st.floats(-9, -2).map(lambda power: 10.0**power)
counts_needed = st.fixed_dictionaries(
    {},
    optional={
        "normalisation": st.tuples(st.just("train"), st.floats(0.5, 5000)),
        "evaluation": st.tuples(st.just("test"), st.floats(0.5, 50)),
        "audit": st.tuples(st.just("test"), st.floats(0.5, 50)),
    },
)


def config_of(**changes: float) -> PrivacyConfig:
    return PrivacyConfig.model_validate({"kind": "subject", "declared_subjects": 100, **changes})


@settings(max_examples=150)
@given(epsilons, deltas, st.integers(1, 5000), counts_needed, st.tuples(st.floats(0.01, 0.95), st.floats(0.05, 0.95)))
def test_no_cohort_ever_pays_more_than_the_plan_says(
    epsilon: float, delta: float, rounds: int, tables: Tables, shares: tuple[float, float]
) -> None:
    config = config_of(
        epsilon=epsilon,
        delta=delta,
        normalisation_share=shares[0],
        audit_share=shares[1],
    )
    try:
        plan = make_plan(config, rounds=rounds, counts_needed=tables)
    except ValueError as error:  # so little is left for so many rounds that no noise can do it
        if "cannot be met" not in str(error):
            raise
        reject()
    cohorts: dict[str, list[Event]] = {}
    for charge in plan.charges():
        cohorts.setdefault(charge.cohort, []).append(charge.event)
    for events in cohorts.values():
        assert pld_epsilon(events, delta) <= epsilon
        # The slower second accountant agrees with the closed form: Gaussians add up in 1 / sigma^2.
        ratio = math.sqrt(sum(event.count / event.noise_multiplier**2 for event in events))
        assert gaussian_delta(ratio, epsilon) <= delta
    assert pld_epsilon(cohorts["train"], delta) >= 0.999 * epsilon


@settings(max_examples=2)
@example(0.1, 8.0, 60, {"normalisation": ("train", 3.0)})
@given(st.floats(0.1, 0.95), st.floats(0.5, 8), st.integers(20, 400), counts_needed)
def test_no_cohort_of_a_sampled_plan_pays_more_than_it_says(
    rate: float, epsilon: float, rounds: int, tables: Tables
) -> None:
    config = config_of(epsilon=epsilon, delta=1e-3, sampling_rate=rate)
    plan = make_plan(config, rounds=rounds, counts_needed=tables)
    for paid in plan.epsilons().values():
        assert paid <= epsilon
    train = [charge.event for charge in plan.charges() if charge.cohort == "train"]
    assert pld_epsilon(train, 1e-3, interval=FINE / 2) <= epsilon
    assert pld_epsilon(train, 1e-3) >= 0.99 * epsilon


@pytest.mark.slow
@settings(max_examples=60)
@given(st.floats(0.002, 0.999), st.floats(0.2, 12), st.integers(1, 3000), counts_needed)
def test_no_cohort_of_any_sampled_plan_pays_more_than_it_says(
    rate: float, epsilon: float, rounds: int, tables: Tables
) -> None:
    config = config_of(epsilon=epsilon, delta=1e-4, sampling_rate=rate)
    plan = make_plan(config, rounds=rounds, counts_needed=tables)
    assert max(plan.epsilons().values()) <= epsilon


def test_a_little_less_noise_would_break_the_promise() -> None:
    for rate in (1.0, 0.3):
        noise = calibrate_noise(Budget(3.0, 1e-4), Event("gaussian", 1.0, rate, 50))
        assert pld_epsilon([Event("gaussian", noise, rate, 50)], 1e-4) <= 3.0
        assert pld_epsilon([Event("gaussian", 0.998 * noise, rate, 50)], 1e-4) > 3.0


@given(st.floats(0.01, 8), st.floats(0.01, 8), deltas)
def test_epsilon_of_a_gaussian_inverts_its_delta_and_grows_with_its_ratio(
    ratio: float, other: float, delta: float
) -> None:
    epsilon = gaussian_epsilon(ratio, delta)
    assert gaussian_delta(ratio, epsilon) <= delta
    if epsilon > 1e-6:
        assert gaussian_delta(ratio, epsilon * (1 - 1e-6)) > delta * (1 - 1e-4)
    low, high = sorted((ratio, other))
    # Up to the margin by which it is rounded up: neighbouring floats as ratios differ by less than that.
    assert gaussian_epsilon(low, delta) <= gaussian_epsilon(high, delta) * (1 + 1e-12)


def test_ratios_that_are_neighbouring_floats_differ_by_less_than_the_margin() -> None:
    low, high = gaussian_epsilon(0.01, 1e-6), gaussian_epsilon(0.010000000000000002, 1e-6)
    assert abs(low - high) <= 1e-12 * high


@given(st.floats(0.3, 50), st.integers(1, 500), deltas)
def test_renyi_is_never_below_the_exact_figure(noise: float, count: int, delta: float) -> None:
    events = [Event("gaussian", noise, 1.0, count)]
    assert renyi_epsilon(renyi(events), delta) >= pld_epsilon(events, delta)


@given(st.floats(0.3, 20), st.floats(0.001, 1), st.integers(1, 100), st.integers(1, 100))
def test_renyi_costs_add_up_and_grow_with_the_order(noise: float, rate: float, first: int, second: int) -> None:
    def cost(count: int) -> tuple[float, ...]:
        return renyi([Event("gaussian", noise, rate, count)])

    both = cost(first + second)
    assert both == pytest.approx([a + b for a, b in zip(cost(first), cost(second), strict=True)], rel=1e-9)
    whole = [rho for order, rho in zip(ORDERS, both, strict=True) if order == int(order)]
    assert whole == sorted(whole)


@settings(max_examples=60)
@given(st.floats(0.5, 30), st.integers(1, 200), st.floats(1, 20), deltas)
def test_the_order_that_the_budget_alone_chooses_holds_as_many_gaussians_as_any_order_would(
    noise: float, steps: int, epsilon: float, delta: float
) -> None:
    first = renyi([Event("gaussian", noise, 1.0, steps)])
    index = ORDERS.index(filter_order(epsilon, delta))

    def repeats(at: int) -> int:
        return math.floor(renyi_bound(ORDERS[at], epsilon, delta) / first[at] * (1 + 1e-12))

    assert repeats(index) == max(repeats(at) for at in range(len(ORDERS)))
