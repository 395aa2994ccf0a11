"""What is checked before a record is read: nothing here depends on a record, so that a refusal tells nothing."""

from __future__ import annotations

import numpy as np

from client.enrolment import Agreement
from client.policy import Refused, read_policy
from client.policy_rules import asked_of, check, check_purpose
from client.site import Site
from common.config import Config
from common.messages import StageRequest, Task
from common.models.model import first_weights
from common.releases import tables_of

PURPOSES = ("normalisation", "training", "evaluation", "audit")
# Beyond this, a server could make rounding errors of other subjects' arithmetic visible, which no clip norm bounds.
LARGEST_WEIGHT = 100.0


def admit(site: Site, agreement: Agreement, request: Task) -> None:
    """Hold a request against the policy of today, the agreement, and common sense.

    Raises:
        Refused: the run is over, the policy changed, the round or purpose was never planned, or the weights are not
            finite numbers of moderate size for exactly the blocks that are shared.
    """
    if site.is_settled(request.run):
        raise Refused("settled", f"run {request.run} is over")
    policy = read_policy(site.policy_path)
    check(policy, asked_of(site, agreement.config, agreement.plan))
    check_purpose(policy, request.purpose)
    _check_place(agreement.config, request)
    _check_normalisation(agreement.config, request)
    _check_weights(agreement.config, request)


def check_stage(request: StageRequest) -> None:
    """Refuse a stage of a purpose that does not exist.

    Raises:
        Refused: there is no such purpose, or the round is negative.
    """
    if request.purpose not in PURPOSES or request.round < 0:
        raise Refused("malformed", f"no stage for {request.purpose} in round {request.round}")


def _check_place(config: Config, request: Task) -> None:
    if request.purpose == "training":
        if not 1 <= request.round <= config.rounds:
            raise Refused("plan", f"round {request.round} is not one of the run's {config.rounds}")
        return
    table = tables_of(config).get(request.purpose)
    if table is None or not table.summed:
        raise Refused("plan", f"this run releases no table for {request.purpose}")
    if request.round != 0:
        raise Refused("plan", f"{request.purpose} is released once a run, as round 0, not {request.round}")


def _check_normalisation(config: Config, request: Task) -> None:
    federated = config.data.normalisation == "federated" and request.purpose != "normalisation"
    if set(request.normalisation) != ({"sums"} if federated else set()):
        raise Refused("malformed", f"{request.purpose} came with normalisation sums {sorted(request.normalisation)}")
    if federated:
        sums, length = request.normalisation["sums"], tables_of(config)["normalisation"].length
        if sums.dtype != np.int64 or sums.shape != (length,):
            raise Refused("malformed", f"normalisation sums must be {length} integers")


def _check_weights(config: Config, request: Task) -> None:
    expected = {} if request.purpose == "normalisation" else first_weights(config)
    if set(request.weights) != set(expected):
        raise Refused("malformed", "the weights are not those of the shared blocks")
    for name, weights in request.weights.items():
        if weights.dtype != np.float32 or weights.shape != expected[name].shape:
            raise Refused("malformed", f"block {name} has another shape or type")
        if not (np.isfinite(weights).all() and (np.abs(weights) <= LARGEST_WEIGHT).all()):
            raise Refused("weights", f"block {name} has weights that are not finite or beyond {LARGEST_WEIGHT:g}")
