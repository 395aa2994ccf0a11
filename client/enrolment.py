"""What a site agreed to for one run: configuration and plan, kept at the site, checked before anything is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from client.ledger import Ledger
from client.ledger_schema import LedgerBroken
from client.members import charges_of, load_key_of, terms_of
from client.policy import Policy, Refused, read_policy
from client.policy_rules import asked_of, check
from client.receipts import check_receipt
from client.self_check import certify, self_check
from client.site import RUN_NAME, Site
from client.stages import alone, write_durably
from common.compose import ConfigError, validate
from common.config import Config
from common.data.schema import merge_schemas
from common.files import sync_folder
from common.messages import Enrol
from common.models.model import summed_in_training
from common.privacy.lattice import MOST_CELLS
from common.privacy.plan import CountRelease, PrivacyPlan
from common.receipts import keep_newest, own_receipts
from common.releases import schema_of, tables_of
from common.secagg.identity import load_identity
from common.secagg.roster import LARGEST_COMPLETE, Roster, guaranteed_honest

_ROSTER_FILE = "roster.sha256"


@dataclass(frozen=True)
class Agreement:
    """A run that this site agreed to; `plan` is None where the site's policy allows a run without privacy."""

    run: str
    config: Config
    plan: PrivacyPlan | None
    plan_hash: bytes

    @property
    def shares_training_noise(self) -> bool:
        """Whether this site's training noise is only a share, so that a sum needs enough sites to carry all of it."""
        return self.plan is not None and self.plan.lattice is not None

    def count_release(self, purpose: str) -> CountRelease | None:
        """The planned noise of a table; None where privacy is off."""
        if self.plan is None:
            return None
        return next(release for release in self.plan.counts if release.purpose == purpose)


def agree(site: Site, request: Enrol) -> Agreement:
    """Check a run against the policy, try its step, reserve its whole budget, and keep what was agreed.

    Once policy and budget hold it, the folder is looked at for who takes part; the answer does not depend on it.

    Guarantees:
        once: the same run with the same configuration and plan is reserved once, however often it is asked for.

    Raises:
        Refused: the policy, the step's trial or the budget says no, or the request contradicts itself.
    """
    agreement = parse_request(request)
    _check_schema(site, agreement.config)
    policy = read_policy(site.policy_path)
    roster = Roster.from_bytes(site.roster_path.read_bytes())
    _check_roster(roster, agreement.config, policy)
    check(policy, asked_of(site, agreement.config, agreement.plan))
    if agreement.plan is not None:
        _check_plan(agreement.config, agreement.plan, num_sites=len(roster.entries))
        self_check(agreement.config, agreement.plan, honest=num_honest(agreement.config, roster))
        with open_ledger(site, policy) as ledger:
            entries = ledger.entries()
            for receipt in own_receipts(request.receipts, site=site.name, public_key=ledger.public_key):
                check_receipt(receipt, entries)
            charges, leave_out = charges_of(site, agreement), policy.spent_subjects == "leave-out"
            ledger.check_lifetime(agreement.run, charges, leave_out=leave_out)  # before the folder is looked at
            terms = terms_of(site, agreement, leave_out=leave_out)
            keep_newest(site.peer_receipts_path, request.receipts, roster)
            ledger.reserve(agreement.run, agreement.plan_hash.hex(), charges, terms)
    path = site.run_folder(agreement.run) / "enrolment.json"
    body = json.dumps({"run": request.run, "config": request.config, "plan": request.plan}).encode()
    with alone(path.parent):
        if path.exists() and path.read_bytes() != body:
            raise Refused("replay", f"run {agreement.run} was agreed to with another configuration")
        if not path.exists():
            write_durably(path, body)
        pinned = path.with_name(_ROSTER_FILE)
        if not pinned.exists():
            write_durably(pinned, _roster_digest(site))
    if agreement.plan is not None:
        certify(path.parent, agreement, honest=num_honest(agreement.config, roster))
    return agreement


def num_honest(config: Config, roster: Roster) -> int:
    """Count the sites that surely add their noise to whatever a site's contribution is read in."""
    return guaranteed_honest(len(roster.entries)) if config.secagg.kind == "masked" else 1


def check_roster_of(site: Site, run: str) -> None:
    """Check that the roster is still the one with which a run was agreed to: its noise and its sums are sized by it.

    Raises:
        Refused: another roster was pinned meanwhile.
    """
    pinned = site.run_folder(run) / _ROSTER_FILE
    if not pinned.exists() or pinned.read_bytes() != _roster_digest(site):
        raise Refused("roster", f"the roster is not the one with which run {run} was agreed to")


def agreement_of(site: Site, run: str) -> Agreement:
    """Read back what was agreed to.

    Raises:
        Refused: this site never agreed to that run: a site that joins late is not covered by any reservation.
    """
    if not RUN_NAME.fullmatch(run):
        raise Refused("malformed", "the run has a name that no run may have")
    path = site.run_folder(run) / "enrolment.json"
    if not path.exists():
        raise Refused("not-enrolled", f"run {run} was never agreed to here")
    agreement = parse_request(Enrol(**json.loads(path.read_text())))
    if agreement.run != run:
        raise Refused("not-enrolled", f"what lies in the folder of run {run} is what run {agreement.run} agreed to")
    return agreement


def open_ledger(site: Site, policy: Policy) -> Ledger:
    """Open the institution's ledger with its own key, or make it, once.

    Guarantees:
        once: a marker is on disk as soon as there is a ledger with a header; from then on none is begun anew.

    Raises:
        LedgerBroken: the ledger is gone, empty, or not what this institution wrote.
    """
    identity = load_identity(site.identity_path)
    marker = site.state / "ledger.made"
    is_made = marker.exists()
    if is_made and policy.ledger is None and not site.ledger_path.exists():
        raise LedgerBroken("this site's ledger is gone: restore it; a new one would forget what was spent")
    ledger = Ledger.open(
        policy.ledger or site.ledger_path,
        site=site.name,
        signer=identity.sign,
        public_key=identity.public_key,
        delta=policy.lifetime_delta,
        lifetime_epsilon=policy.lifetime_epsilon,
        is_made=is_made,
        receipt_path=site.receipt_path,
    )
    if not is_made:
        sync_folder(site.state)  # the ledger's name before the marker's: after a crash there is never the marker alone
        marker.touch(mode=0o600)
        sync_folder(site.state)
    return ledger


def cohorts_of(site: Site, run: str) -> Mapping[str, frozenset[bytes]] | None:
    """Read who takes part in a run, by cohort; None where nobody wrote it down, so that every subject pays.

    Raises:
        LedgerBroken: the ledger or the pseudonym key is gone or damaged, or not that of this run.
    """
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        return ledger.members(run, lambda: load_key_of(site).check)


def _roster_digest(site: Site) -> bytes:
    return hashlib.sha256(site.roster_path.read_bytes()).digest()


def _check_roster(roster: Roster, config: Config, policy: Policy) -> None:
    """Refuse, before anything is reserved, what could never be summed with this roster."""
    num_sites, smallest = len(roster.entries), max(policy.k_min, config.secagg.k_min)
    if config.secagg.k_min > num_sites:
        raise Refused("cohort", f"k_min {config.secagg.k_min} is more than the roster's {num_sites} sites")
    if config.secagg.kind == "none" or num_sites <= LARGEST_COMPLETE:
        return
    if config.secagg.post_quantum:
        raise Refused("post-quantum", f"post-quantum keys are for rosters of up to {LARGEST_COMPLETE} sites")
    surely = guaranteed_honest(num_sites)
    if smallest > surely:
        raise Refused("cohort", f"a large sum surely has {surely} honest sites, fewer than the k_min {smallest}")


def _check_schema(site: Site, config: Config) -> None:
    """What this site holds must be described in the run exactly as its own dataset.yaml describes it.

    Otherwise a server could name other classes, levels or bounds than the records have, and learn from what breaks.
    """
    own, asked = merge_schemas([site.spec()]), schema_of(config)
    for section in ("modalities", "tasks", "attributes"):
        theirs = getattr(asked, section)
        for name, entry in getattr(own, section).items():
            if theirs.get(name, entry) != entry:
                raise Refused("schema", f"{section} {name} is described otherwise than in this site's dataset.yaml")
    if config.objective.task not in own.tasks:
        raise Refused("schema", f"this site has no task {config.objective.task}")


def parse_request(request: Enrol) -> Agreement:
    """Read a request.

    Raises:
        Refused: configuration or plan cannot be read, or contradict each other.
    """
    if not RUN_NAME.fullmatch(request.run):
        raise Refused("malformed", "the run has a name that no run may have")
    try:
        config = validate(request.config)
        plan = PrivacyPlan.from_json(request.plan) if json.loads(request.plan) else None
    except (ConfigError, ValueError) as error:
        raise Refused("malformed", f"the run's configuration or plan cannot be read: {error}") from error
    if config.data_schema is None:
        raise Refused("malformed", "the run's configuration has no schema")
    if (plan is None) != (config.privacy.kind == "none"):
        raise Refused("plan", "the plan and privacy.kind contradict each other")
    return Agreement(request.run, config, plan, request.digest())


def _check_plan(config: Config, plan: PrivacyPlan, *, num_sites: int) -> None:
    """A plan is what gets charged and the configuration is what gets run: they must say the same."""
    privacy = config.privacy
    said = (
        plan.rounds,
        plan.steps_per_round,
        plan.sampling_rate,
        plan.clip_norm,
        plan.epsilon,
        plan.delta,
        plan.divisor,
    )
    asked = (
        *(config.rounds, privacy.steps_per_round, privacy.sampling_rate, privacy.clip_norm),
        *(privacy.epsilon, privacy.delta, privacy.sampling_rate * privacy.declared_subjects),
    )
    if said != asked:
        raise Refused("plan", f"the plan says {said} where the configuration says {asked}")
    summed = None if plan.lattice is None else (plan.lattice.sites, plan.lattice.coordinates)
    if summed != summed_in_training(config, num_sites):
        raise Refused("plan", f"the plan adds up {summed}, the configuration {summed_in_training(config, num_sites)}")
    tables = {purpose: (table.cohort, table.l2_sensitivity) for purpose, table in tables_of(config).items()}
    planned = {release.purpose: (release.cohort, release.l2_sensitivity) for release in plan.counts}
    if tables != planned or any(release.times != 1 for release in plan.counts):
        raise Refused("plan", "the plan's tables are not the tables of this configuration")
    if any(table.length * num_sites >= MOST_CELLS for table in tables_of(config).values()):
        raise Refused("plan", f"a table's noise is accounted for fewer than {MOST_CELLS:,} cells times sites")
