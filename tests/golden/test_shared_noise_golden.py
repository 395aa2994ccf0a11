"""What noise that sites share out costs: Kairouz, Liu, Steinke 2021, and distributions computed to the last term."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import pytest

from common.privacy.events import LATTICE_SLACK, Event
from common.privacy.gaussian import gaussian_delta
from common.privacy.lattice import Lattice, share_std
from common.privacy.renyi import ORDERS, renyi

REACH = 120  # beyond it, no distribution below has a probability above 1e-300


def kairouz_renyi(order: float, lattice: Lattice, share: float, honest: int) -> float:
    """The Renyi divergence of one sum by arXiv:2102.06387v4, theorem 1 and proposition 14, two of its three forms."""
    coordinates, sensitivity = lattice.coordinates, lattice.l2_sensitivity
    tau = 10 * sum(math.exp(-2 * math.pi**2 * share**2 * k / (k + 1)) for k in range(1, honest))
    scale = sensitivity / (math.sqrt(honest) * share)
    return min(
        order / 2 * scale**2 + tau * coordinates,
        order / 2 * (scale + math.sqrt(coordinates) * tau) ** 2,
    )


@pytest.mark.parametrize("noise_multiplier", [0.3, 3.290687, 17.48])
@pytest.mark.parametrize(
    ("honest", "lattice"),
    [(2, Lattice(4, 2918, 2**20)), (34, Lattice(100, 400_000, 2**12)), (2, Lattice(4, 1, 1)), (7, Lattice(19, 50, 2))],
)
def test_a_rounds_charge_is_never_below_the_published_bound_and_next_to_it(
    honest: int, lattice: Lattice, noise_multiplier: float
) -> None:
    share = share_std(lattice.l2_sensitivity, noise_multiplier, honest)
    for order, charged in zip(ORDERS, renyi([Event("discrete_gaussian", noise_multiplier, 1.0, 1)]), strict=True):
        published = kairouz_renyi(order, lattice, share, honest)
        assert published <= charged
        if lattice.clip_steps > 1000:  # nothing is lost to the grid
            assert published >= charged * (1 - 1e-4) - LATTICE_SLACK
            every_site_counted = share * math.sqrt(honest / lattice.sites)
            assert kairouz_renyi(order, lattice, every_site_counted, honest) > charged


def masses(std: float) -> np.ndarray:
    """Probabilities of the discrete Gaussian at -REACH ... REACH, straight from its definition."""
    weights = np.exp(-(np.arange(-REACH, REACH + 1.0) ** 2) / (2 * std**2))
    return np.asarray(weights / weights.sum())


def exact_delta(share: float, honest: int, *, shift: int, epsilon: float, rounds: int) -> float:
    """The smallest delta of `rounds` sums of `honest` shares, each of which one subject moves by `shift`; exactly.

    Rounds are independent coordinates: the outcome of all of them is a point of a grid, with a probability with the
    subject and one without.
    """
    *_, single = accumulate([masses(share)] * honest, np.convolve)
    middle = slice(len(single) // 2 - REACH // 2, len(single) // 2 + REACH // 2 + 1)
    without, moved = single[middle], np.roll(single, shift)[middle]
    shape = [[-1 if axis == number else 1 for axis in range(rounds)] for number in range(rounds)]
    with_subject = math.prod((moved.reshape(at) for at in shape), start=np.ones(1))
    without_subject = math.prod((without.reshape(at) for at in shape), start=np.ones(1))
    return float(np.clip(with_subject - math.exp(epsilon) * without_subject, 0, None).sum())


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize(("honest", "multiplier"), [(1, 1.0), (2, 1.5), (2, 3.0), (3, 2.0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 2.0])
def test_the_exact_sum_of_shares_costs_no_more_than_the_gaussian_that_is_charged(
    honest: int, multiplier: float, epsilon: float, rounds: int
) -> None:
    sensitivity = 2
    share = share_std(sensitivity, multiplier, honest)
    charged = gaussian_delta(math.sqrt(rounds) / multiplier, epsilon - rounds * LATTICE_SLACK)
    assert exact_delta(share, honest, shift=sensitivity, epsilon=epsilon, rounds=rounds) <= charged
    # Shares that only all four sites together make whole, where two may collude.
    wrong = math.sqrt((sensitivity * multiplier) ** 2 / (2 * honest))
    assert exact_delta(wrong, honest, shift=sensitivity, epsilon=epsilon, rounds=rounds) > charged


def test_the_exact_sum_of_wide_shares_costs_as_much_as_the_gaussian() -> None:
    """The bound is not bought with noise that nobody asked for: the lattice's own variance, 2, is all there is."""
    sensitivity, multiplier = 4, 2.0
    exact = exact_delta(share_std(sensitivity, multiplier, 2), 2, shift=sensitivity, epsilon=0.5, rounds=1)
    wider = math.sqrt((sensitivity * multiplier) ** 2 + 2) / sensitivity
    assert exact == pytest.approx(gaussian_delta(1 / wider, 0.5), rel=5e-3)
