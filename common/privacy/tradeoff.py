"""What an attacker can do at most: hypothesis testing bounds from a run's whole privacy curve, not from one epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterable

from common.privacy.accounting import pld_deltas
from common.privacy.events import Event

_SPACING = 0.002
_FARTHEST = 20.0
_MARGIN = 1e-9


def attack_power(events: Iterable[Event], false_alarms: float) -> float:
    """Give the largest part of members that an attacker can find who takes at most `false_alarms` others for members.

    The attacker may know everything but whether one subject was in the data (zero-out neighbours: in, or left out), and
    sees all that the events released. At every point (epsilon, delta) of the events' privacy curve, in both directions,
    the true-positive rate is at most e^epsilon * false_alarms + delta, and at most
    1 - e^-epsilon * (1 - false_alarms - delta). Any points will do; these lie close enough together for five digits.

    Guarantees:
        rounded up: never below what the best attack on these events reaches.

    Raises:
        ValueError: false_alarms is not in (0, 1).
    Source: Kairouz, Oh, Viswanath 2015, arXiv:1311.0776; Dong, Roth, Su 2019, arXiv:1905.02383, section 2.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms must be in (0, 1), got {false_alarms}")
    reach = max(_FARTHEST, -math.log(false_alarms))
    epsilons = tuple(place * _SPACING for place in range(math.ceil(reach / _SPACING) + 1))
    power = min(
        min(math.exp(epsilon) * false_alarms + delta, 1 - math.exp(-epsilon) * max(0.0, 1 - false_alarms - delta))
        for epsilon, delta in zip(epsilons, pld_deltas(events, epsilons), strict=True)
    )
    return min(1.0, power + _MARGIN)
