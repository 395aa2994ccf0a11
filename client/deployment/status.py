"""`site status`, `site budget` and `site policy`: how a site stands, for its engineer and its privacy officer."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from client.deployment.approval import check_installed, present
from client.deployment.join import standing
from client.deployment.node import read_polls
from client.deployment.place import Place
from client.policy import EVERYTHING, Policy, Refused, read_policy
from common.deployment.documents import Enrolment, read_document
from common.deployment.probe import probe
from common.secagg.roster import Roster
from common.verify.anchors import read_anchors
from common.verify.command import Asked, run_verify
from common.verify.read import read_ledger
from common.verify.verdict import read_budget, verify

_NEWEST = 10


@dataclass(frozen=True)
class Status:
    """How a site stands.

    Attributes:
        trouble: why it takes no run now, as `site approve` would set right; empty: nothing.
        connection: how it stands between this site and the gate, in one sentence.
        roster: the institutions of the approved roster.
        needed: epsilon that the ledger's filter needs by now; it decides, and lifetime_epsilon is its limit.
        spent: epsilon at the ledger's delta, by Renyi composition.
        problems: what is wrong with the ledger.
        newest: the last lines of the site's own log.
    """

    name: str
    gate: str
    running: bool
    connection: str
    trouble: str
    roster: tuple[str, ...]
    lifetime_epsilon: float
    needed: float | None
    spent: float | None
    runs: tuple[str, ...]
    problems: tuple[str, ...]
    newest: tuple[dict[str, str | int | float], ...]


def status(place: Place) -> Status:
    """Look at a site, whether it runs or not; nothing is changed, and no private key is read.

    Raises:
        ConfigError: this is no site's folder.
        PolicyBroken: the policy cannot be read.
        LedgerUnreadable: there is no ledger.
    """
    site, invitation, policy = place.site(), place.invitation(), read_policy(place.site().policy_path)
    asked = _asked(place)
    anchors = read_anchors(asked.receipts, asked.public_key, None)
    verdict = verify(read_ledger(_ledger(place, policy)), anchors, read_budget(None, asked.policy))
    totals, running = verdict.totals, place.is_running()
    found = probe(invitation.address, invitation.authority)
    idle = f"not joined; {found.trouble or 'the gate answers'}"
    return Status(
        name=site.name,
        gate=invitation.address,
        running=running,
        connection=standing(read_polls(place.polls_path), found, time.monotonic()) if running else idle,
        trouble=_trouble(place),
        roster=tuple(Roster.from_bytes(site.roster_path.read_bytes()).keys) if site.roster_path.exists() else (),
        lifetime_epsilon=policy.lifetime_epsilon,
        needed=None if totals is None else totals.needed,
        spent=None if totals is None else totals.spent,
        runs=() if totals is None else tuple(str(cost.run.name) for cost in totals.runs),
        problems=tuple(finding.text for finding in verdict.problems),
        newest=_newest(site.state / "log.jsonl"),
    )


def show_budget(place: Place, *, as_json: bool) -> int:
    """Have the ledger read by other code than wrote it, and print what it adds up to; returns the exit code."""
    policy = read_policy(place.site().policy_path)
    asked = _asked(place)
    return run_verify(
        _ledger(place, policy), Asked(asked.receipts, asked.public_key, policy=asked.policy, as_json=as_json)
    )


def policy_in_words(policy: Policy) -> tuple[str, ...]:
    """What a run may do at a site, in sentences."""
    may = {True: "may", False: "may not"}
    one = f"at most {policy.per_run_epsilon:g}" if policy.per_run_epsilon is not None else "as much as is left of that"
    steps = "" if policy.most_steps is None else f", in at most {policy.most_steps} steps"
    shared = (
        "They may share the noise of training out among them"
        if policy.allow_distributed_noise
        else ("This site adds all the noise of its training itself")
    )
    return (
        f"All runs together cost a subject epsilon {policy.lifetime_epsilon:g} at delta {policy.lifetime_delta:g}.",
        f"One run may cost {one}{steps}.",
        f"Records are read for: {', '.join(policy.allowed_purposes)}.",
        f"Learned are the labels: {_named(policy.allowed_tasks)}; audited by: {_named(policy.allowed_attributes)}.",
        f"Read are the modalities: {_named(policy.allowed_modalities)}; trained: {_named(policy.allowed_blocks)}.",
        f"Values are scaled by: {', '.join(policy.allowed_normalisation)}.",
        f"At least {policy.k_min} sites are added up; on the roster may be: {_named(policy.allowed_peers)}.",
        f"The server {may[policy.allow_no_secagg]} see what this site alone contributes.",
        f"A run {may[policy.allow_no_privacy]} read records without differential privacy.",
        f"{shared}; a step's noise multiplier is at least {policy.min_noise_multiplier:g},"
        f" a table's {policy.min_table_noise_multiplier:g}.",
        f"Where the budget is gone: {policy.spent_subjects}.",
    )


def _named(names: tuple[str, ...]) -> str:
    return "any" if EVERYTHING in names else ", ".join(names) or "none"


def _asked(place: Place) -> Asked:
    """What a ledger here is held against: the site's own key, its newest receipt, its policy."""
    site, paper = place.site(), read_document(place.enrolment_path, Enrolment)
    receipts = (site.receipt_path,) if site.receipt_path.exists() else ()
    return Asked(receipts, paper.identity_key, policy=site.policy_path)


def _ledger(place: Place, policy: Policy) -> str:
    return policy.ledger or str(place.site().ledger_path)


def _trouble(place: Place) -> str:
    try:
        check_installed(place.site(), present())
    except Refused as refusal:
        return refusal.reason
    return ""


def _newest(log: Path) -> tuple[dict[str, str | int | float], ...]:
    if not log.exists():
        return ()
    with log.open(encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in deque(lines, maxlen=_NEWEST))
