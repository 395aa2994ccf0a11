"""What could ever leave follows from the policy, and covers every reply that a site can give."""

from __future__ import annotations

from typing import get_args

import pytest

from client.leaving import NEVER, leaving
from client.policy import Policy
from common import large_messages, messages

# Every reply, and the kinds of things in it; a new reply has to be put somewhere.
KINDS: dict[type, set[str]] = {
    messages.Enrolled: {"consent"},
    messages.Refusal: {"consent", "failure"},
    messages.Advert: {"protocol", "receipt"},
    messages.Shares: {"protocol"},
    messages.Checked: {"protocol"},
    messages.Revealed: {"protocol"},
    messages.Settled: {"receipt"},
    messages.Masked: {"training", "normalisation", "evaluation", "audit"},
    messages.Plain: {"training", "normalisation", "evaluation", "audit", "receipt"},
}


def policy(**keys: object) -> Policy:
    return Policy.model_validate({"lifetime_epsilon": 8.0, "lifetime_delta": 1e-3, **keys})


def replies() -> set[type]:
    return {reply for reply in get_args(messages.Reply) if isinstance(reply, type)}


def test_every_reply_of_a_site_is_on_the_list() -> None:
    listed = {item.purpose for item in leaving(policy())}
    assert set().union(*KINDS.values()) == listed
    others = replies() - set(KINDS)
    assert all(reply.__module__ == large_messages.__name__ for reply in others), "of large rosters: the same things"


def test_what_may_not_be_read_for_a_purpose_does_not_leave_for_it() -> None:
    def purposes(**keys: object) -> set[str]:
        return {item.purpose for item in leaving(policy(**keys))}

    assert "audit" not in purposes(allowed_purposes=["training", "evaluation"])
    assert "audit" not in purposes(allowed_attributes=[])
    assert "normalisation" not in purposes(allowed_normalisation=["none", "site"])
    assert {"consent", "protocol", "receipt", "failure"} <= purposes(allowed_purposes=[])


@pytest.mark.parametrize("key", ["allow_no_privacy", "allow_no_secagg"])
def test_a_policy_that_allows_less_protection_is_said_loudly(key: str) -> None:
    assert not any("NOT" in item.protection for item in leaving(policy()))
    loud = {item.purpose for item in leaving(policy(**{key: True})) if "NOT" in item.protection}
    assert loud == {"training", "normalisation", "evaluation", "audit"}


def test_the_policys_own_figures_are_said() -> None:
    keys = {"k_min": 7, "min_noise_multiplier": 1.5, "allowed_blocks": ["fusion"], "allowed_attributes": ["sex"]}
    found = {item.purpose: item for item in leaving(policy(**keys, allow_distributed_noise=True))}
    assert "7 sites" in found["audit"].protection
    assert "1.5 times" in found["training"].protection
    assert "by all sites together" in found["training"].protection
    assert found["training"].what.endswith("fusion")
    assert "(sex)" in found["audit"].what
    assert len(set(NEVER)) == len(NEVER)
