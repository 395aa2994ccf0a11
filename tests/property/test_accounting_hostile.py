"""Events at the edges of their ranges: no figure is ever too small, whatever a server puts into a plan."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import mpmath
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from common.privacy.accounting import FINE, pld_deltas, pld_epsilon, replace_one_epsilon
from common.privacy.events import LARGEST_MULTIPLIER, SMALLEST_MULTIPLIER, Event
from common.privacy.renyi import ORDERS, epsilon_at, renyi, renyi_epsilon
from common.privacy.tradeoff import attack_power

DIGITS = 60
# As far as Event lets anybody go, and rates next to 0 and next to 1.
noises = st.one_of(
    st.floats(-3, 8).map(lambda power: 10.0**power), st.sampled_from([SMALLEST_MULTIPLIER, LARGEST_MULTIPLIER])
)
rates = st.one_of(
    st.floats(-6, -0.001).map(lambda power: 10.0**power),
    st.floats(-15, -1).map(lambda power: 1 - 10.0**power),
    st.sampled_from([math.nextafter(1.0, 0.0), 1e-300, 5e-324]),
)
usual_noises, usual_rates = st.floats(0.5, 20), st.floats(0.001, 0.99)
deltas = st.floats(-8, -2).map(lambda power: 10.0**power)


def slow_moment(noise: float, rate: float, order: int) -> mpmath.mpf:
    """(order - 1) rho of one sampled Gaussian at a whole order: the binomial sum, with sixty digits."""
    with mpmath.workdps(DIGITS):
        z, q = mpmath.mpf(noise), mpmath.mpf(rate)
        return mpmath.log1p(
            mpmath.fsum(
                mpmath.binomial(order, k) * (1 - q) ** (order - k) * q**k * mpmath.expm1((k * k - k) / (2 * z * z))
                for k in range(2, order + 1)
            )
        )


@lru_cache(maxsize=64)
def slow_fraction(noise: float, rate: float, order: float) -> mpmath.mpf:
    """The same at any order, from the definition: an integral over the outcome of the release."""
    with mpmath.workdps(30):
        z, q, a = mpmath.mpf(noise), mpmath.mpf(rate), mpmath.mpf(order)

        def moment(x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.npdf(x, 0, z) * ((1 - q) + q * mpmath.exp((2 * x - 1) / (2 * z * z))) ** a

        places = [
            -mpmath.inf,
            *(at * z for at in range(-6, 1, 3)),
            *(at + place * z for at in (a / 2, a) for place in (-3, 0, 3)),
            mpmath.inf,
        ]
        return mpmath.log(mpmath.quad(moment, sorted(set(places))))


@settings(max_examples=150)
@example(1e8, 1e-6, 512)
@example(SMALLEST_MULTIPLIER, 1 - 1e-15, 512)
@example(LARGEST_MULTIPLIER, 5e-324, 2)
@given(noises, rates, st.sampled_from([order for order in ORDERS if order == int(order)]))
def test_at_whole_orders_the_curve_is_the_exact_one_rounded_up(noise: float, rate: float, order: float) -> None:
    (paid,) = (rho for at, rho in zip(ORDERS, renyi([Event("gaussian", noise, rate, 1)]), strict=True) if at == order)
    exact = slow_moment(noise, rate, int(order)) / (order - 1)
    assert paid >= exact
    assert paid <= exact * (1 + mpmath.mpf("1e-8")) + mpmath.mpf("1e-300")


@settings(max_examples=25)
@given(st.floats(0.4, 5), st.floats(0.001, 0.95), st.sampled_from([order for order in ORDERS if order != int(order)]))
def test_between_whole_orders_the_curve_is_never_below_the_integral(noise: float, rate: float, order: float) -> None:
    (paid,) = (rho for at, rho in zip(ORDERS, renyi([Event("gaussian", noise, rate, 1)]), strict=True) if at == order)
    assert paid >= slow_fraction(noise, rate, order) / (order - 1)


def test_the_integral_and_the_binomial_sum_are_the_same_divergence() -> None:
    for noise, rate, order in ((1.0, 0.032, 4), (0.6, 0.3, 3), (4.0, 0.9, 8)):
        assert slow_fraction(noise, rate, float(order)) == pytest.approx(slow_moment(noise, rate, order), rel=1e-9)


@settings(max_examples=100)
@given(noises, st.one_of(rates, st.just(1.0)), st.sampled_from([1, 10**6, 10**12]))
def test_a_release_that_was_made_never_costs_nothing_and_the_whole_curve_is_a_number(
    noise: float, rate: float, count: int
) -> None:
    for rho in renyi([Event("gaussian", noise, rate, count)]):
        assert rho > 0


@settings(max_examples=100)
@given(noises, st.floats(1, 4), rates, st.floats(0, 1), st.integers(1, 1000))
def test_the_curve_falls_with_the_noise_and_grows_with_rate_and_steps(
    noise: float, more: float, rate: float, less: float, steps: int
) -> None:
    event = Event("gaussian", noise, rate, steps)
    assume(noise * more <= LARGEST_MULTIPLIER and rate * less > 0)
    cheaper = (
        replace(event, noise_multiplier=noise * more),
        replace(event, sampling_rate=rate * less),
        replace(event, count=steps - 1),
    )
    for other in cheaper:
        for low, high in zip(renyi([other]), renyi([event]), strict=True):
            assert low <= high * (1 + 1e-9)


@settings(max_examples=12)
@given(usual_noises, usual_rates, st.integers(1, 3000), deltas)
def test_pld_is_never_above_renyi_and_replacing_is_never_cheaper_than_removing(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    events = [Event("gaussian", noise, rate, steps)]
    epsilon = pld_epsilon(events, delta)
    assume(epsilon < 50)
    assert epsilon <= renyi_epsilon(renyi(events), delta) * (1 + 1e-3) + 5 * FINE
    assert replace_one_epsilon(events, delta) >= epsilon * (1 - 1e-3) - 5 * FINE


@settings(max_examples=8)
@given(usual_noises, usual_rates, st.integers(2, 1000), deltas)
def test_pld_falls_with_noise_and_delta_and_grows_with_rate_and_steps(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    event = Event("gaussian", noise, rate, steps)
    epsilon = pld_epsilon([event], delta)
    assume(epsilon < 50)
    for cheaper in (
        pld_epsilon([replace(event, noise_multiplier=1.2 * noise)], delta),
        pld_epsilon([replace(event, sampling_rate=0.8 * rate)], delta),
        pld_epsilon([replace(event, count=steps - 1)], delta),
        pld_epsilon([event], 2 * delta),
    ):
        assert cheaper <= epsilon * (1 + 1e-6) + FINE


@settings(max_examples=3)
@given(usual_noises, usual_rates, st.integers(1, 500), st.floats(0.001, 0.5))
def test_no_attack_is_promised_less_than_one_sampled_release_gives_it(
    noise: float, rate: float, steps: int, false_alarms: float
) -> None:
    """Whatever else is released, the attacker can look at one release alone, and a single threshold is a test."""
    power = attack_power([Event("gaussian", noise, rate, steps)], false_alarms)
    with mpmath.workdps(30):
        threshold = noise * mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * mpmath.mpf(false_alarms))
        reached = rate * mpmath.ncdf((1 - threshold) / noise) + (1 - rate) * mpmath.mpf(false_alarms)
    assert power >= reached


def test_the_curve_bends_as_a_privacy_curve_must() -> None:
    """delta falls and is convex in e^epsilon, and no faster than 1 a unit of epsilon at 0."""
    epsilons = [place / 10 for place in range(60)]
    found = pld_deltas([Event("gaussian", 1.0, 0.1, 100)], epsilons)
    assert list(found) == sorted(found, reverse=True)
    slopes = [
        (right - left) / (math.exp(far) - math.exp(near))
        for left, right, near, far in zip(found, found[1:], epsilons, epsilons[1:], strict=False)
    ]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(slopes))


@pytest.mark.parametrize(
    "event",
    [
        Event("gaussian", 0.02, 0.5, 10),
        Event("gaussian", 0.05, 0.01, 100_000),
        Event("gaussian", SMALLEST_MULTIPLIER, 0.5, 10**9),
        Event("gaussian", SMALLEST_MULTIPLIER, 1e-6, 1),
        Event("gaussian", LARGEST_MULTIPLIER, 1.0, 10**12),
        Event("gaussian", 1e8, 0.5, 10**6),
    ],
)
def test_a_plan_that_protects_nobody_costs_no_time_and_no_memory_to_refuse(event: Event) -> None:
    """A site computes the figures of whatever plan it is sent, before it looks at anything else."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epsilon = pld_epsilon([event], 1e-5)
    assert epsilon >= 0
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    assert epsilon <= 2 * renyi_epsilon(renyi([event]), 1e-5)


@pytest.mark.parametrize("order", [1.25, 2, 512])
def test_infinite_cost_is_infinite_epsilon(order: float) -> None:
    assert epsilon_at(order, math.inf, 1e-5) == math.inf
    assert renyi_epsilon((math.inf,) * len(ORDERS), 1e-5) == math.inf
