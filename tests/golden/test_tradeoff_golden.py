"""How much an attacker can do: closed forms where there are some, and two curves of published shape."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from common.privacy.accounting import pld_deltas, pld_epsilon
from common.privacy.events import LATTICE_SLACK, Event, Mechanism
from common.privacy.tradeoff import attack_power

NORMAL = NormalDist()
REFERENCE = (Event("gaussian", 1.0, 64 / 2000, 500),)


def gaussian_attack(ratio: float, false_alarms: float) -> float:
    """The best attack on one Gaussian: Dong, Roth, Su 2019, arXiv:1905.02383, section 2."""
    return NORMAL.cdf(NORMAL.inv_cdf(false_alarms) + ratio)


@pytest.mark.parametrize("mechanism", ["gaussian", "discrete_gaussian"])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("false_alarms", [1e-6, 1e-3, 0.01, 0.2, 0.9])
def test_the_power_against_unsampled_gaussians_is_the_closed_form_rounded_up(
    mechanism: Mechanism, ratio: float, false_alarms: float
) -> None:
    events = [Event(mechanism, 2 / ratio, 1.0, 3), Event("gaussian", 2 / ratio, 1.0, 1)]
    closed = gaussian_attack(ratio, false_alarms)
    assert closed <= attack_power(events, false_alarms) <= closed + 1e-5


def test_the_power_against_the_reference_run_is_far_below_what_its_epsilon_alone_would_allow() -> None:
    """Epsilon 4.6 alone allows every member to be found at 1 % false alarms; the whole curve allows 8.4 %."""
    epsilon = pld_epsilon(REFERENCE, 1e-5)
    alone = min(math.exp(epsilon) * 0.01 + 1e-5, 1 - math.exp(-epsilon) * (1 - 0.01 - 1e-5))
    assert alone > 0.99
    assert attack_power(REFERENCE, 0.01) == pytest.approx(0.0842, abs=1e-4)


@pytest.mark.parametrize("false_alarms", [1e-4, 0.01, 0.3])
@pytest.mark.parametrize(("rate", "noise"), [(0.5, 0.8), (0.05, 1.0), (0.999, 3.0)])
def test_the_power_against_one_sampled_release_is_at_least_what_the_best_tests_reach(
    rate: float, noise: float, false_alarms: float
) -> None:
    """One release with and without the subject; a test says "member" beyond a threshold, or "no member" below one."""
    single = gaussian_attack(1 / noise, false_alarms)
    found = rate * single + (1 - rate) * false_alarms
    threshold = brent_root(rate, noise, false_alarms)
    missed = NORMAL.cdf(threshold / noise)
    best = max(found, missed)
    # A curve of both directions together allows, where they cross, a mixture of their two tests.
    assert best <= attack_power([Event("gaussian", noise, rate, 1)], false_alarms) <= best + 2e-3


def brent_root(rate: float, noise: float, false_alarms: float) -> float:
    """Where the mixture's distribution function reaches `false_alarms`: the roles of the two neighbours exchanged."""
    from scipy.optimize import brentq  # noqa: PLC0415

    def excess(at: float) -> float:
        return (1 - rate) * NORMAL.cdf(at / noise) + rate * NORMAL.cdf((at - 1) / noise) - false_alarms

    return float(brentq(excess, -40 * noise, 40 * noise))


def test_the_central_limit_of_sampled_steps_is_the_published_one() -> None:
    """Bu, Dong, Long, Su 2019, arXiv:1911.11607: many steps are one Gaussian of ratio q sqrt(T (e^(1/sigma^2) - 1))."""
    rate, noise, steps = 1e-3, 1.0, 40_000
    limit = rate * math.sqrt(steps * (math.exp(1 / noise**2) - 1))
    events = [Event("gaussian", noise, rate, steps)]
    assert attack_power(events, 0.01) == pytest.approx(gaussian_attack(limit, 0.01), abs=1e-3)
    assert attack_power(events, 0.3) == pytest.approx(gaussian_attack(limit, 0.3), abs=2e-3)


@pytest.mark.slow
def test_the_power_is_above_the_false_alarms_and_grows_with_them_and_with_the_steps() -> None:
    rising = [attack_power(REFERENCE, alarms) for alarms in (1e-5, 0.01, 0.5, 0.9)]
    assert rising == sorted(rising)
    longer = [attack_power([Event("gaussian", 1.0, 0.032, steps)], 0.01) for steps in (1, 20, 500)]
    assert longer == sorted(longer)
    assert attack_power([], 0.01) == pytest.approx(0.01, abs=1e-8)


@pytest.mark.parametrize("false_alarms", [0.0, 1.0, -0.1, math.nan])
def test_false_alarms_outside_0_to_1_are_refused_by_name(false_alarms: float) -> None:
    with pytest.raises(ValueError, match=r"false_alarms must be in \(0, 1\)"):
        attack_power(REFERENCE, false_alarms)


def test_the_curve_meets_epsilon_and_its_slack_is_paid() -> None:
    (delta,) = pld_deltas(REFERENCE, [pld_epsilon(REFERENCE, 1e-5)])
    assert delta == pytest.approx(1e-5, rel=1e-6)
    smooth, table = Event("gaussian", 30.0, 1.0, 1000), Event("discrete_gaussian", 30.0, 1.0, 1000)
    slack, epsilons = 1000 * LATTICE_SLACK, np.linspace(0, 6, 61).tolist()
    shifted = pld_deltas([table], [at + slack for at in epsilons])
    for paid, plain in zip(shifted, pld_deltas([smooth], epsilons), strict=True):
        assert plain <= paid <= plain * (1 + 2 * slack) + 1e-15
    (at_zero,), (at_slack,) = pld_deltas([table], [0.0]), pld_deltas([smooth], [slack])
    assert at_zero >= 1 - math.exp(-slack) * (1 - at_slack)  # the curve left of 0, where roles are exchanged
    with pytest.raises(ValueError, match="epsilons must be >= 0 and rise"):
        pld_deltas(REFERENCE, [2.0, 1.0])
