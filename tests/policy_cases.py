"""For every key of a policy: a run that asks for exactly what it allows, and one that asks for one thing more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from client.bundle import bundle_hash
from client.policy import Policy, write_policy
from client.site import Site
from common.blocks import blocks_of, flatten
from common.compose import compose
from common.config import Config
from common.data.schema import Schema
from common.messages import Enrol, Task
from common.models.model import build_model
from common.privacy.plan import PrivacyPlan
from common.releases import schema_of
from common.secagg.identity import load_identity, new_identity
from common.secagg.roster import sign_roster
from server.planning import Described, plan_of
from simulations.federation import Federation, prepare
from tests.federation_run import SMALL, toy_root

VICTIM, PEERS, MODALITIES = "site-0", ("site-1", "site-2", "site-3"), ("labs", "vitals", "ward")
QUIET = ("data.normalisation=none", "privacy.delta=1e-3")
# Allows whatever any of these runs asks for.
WIDE: dict[str, object] = {
    "lifetime_epsilon": 200.0,
    "lifetime_delta": 2e-3,
    **dict.fromkeys(("allow_no_privacy", "allow_no_secagg", "allow_distributed_noise"), True),
    "spent_subjects": "leave-out",
}
# Allows an ordinary run and, of what protects less, nothing.
PLAIN: dict[str, object] = {"lifetime_epsilon": 200.0, "lifetime_delta": 1e-3}


@dataclass(frozen=True)
class Run:
    """What a server asks for: overrides of a small run, the modalities it reads, who else is on the roster."""

    overrides: tuple[str, ...] = ()
    modalities: tuple[str, ...] = MODALITIES
    peers: tuple[str, ...] = PEERS


Value = object | Callable[[PrivacyPlan | None], object]


@dataclass(frozen=True)
class Case:
    """A key, its value, and the runs on both sides of it.

    Attributes:
        value: of the key; where it is a function, of the plan of `exact`.
        exact, more: the run that just keeps the rule, and the one that asks for one thing too many.
        code: what leaves the site.
        rule: the key that the site's log must name; default: `key`.
        before: runs that were agreed to before, under the same policy but for `value`.
        other: the value while `more` is asked for, where it is not the run that differs but the site.
        also: other keys of the policy.
    """

    key: str
    value: Value
    exact: Run
    more: Run
    code: str
    rule: str = ""
    before: tuple[Run, ...] = ()
    other: object = None
    also: dict[str, object] = field(default_factory=dict)

    def policy(self, plan: PrivacyPlan | None, *, more: bool) -> dict[str, object]:
        """The keys while `exact` or `more` is asked for."""
        value = self.value(plan) if callable(self.value) else self.value
        return {**PLAIN, **self.also, self.key: self.other if more and self.other is not None else value}


def asks(*overrides: str) -> Run:
    return Run(overrides)


def noise_of(plan: PrivacyPlan | None) -> float:
    assert plan is not None
    return plan.noise_multiplier


def table_noise_of(plan: PrivacyPlan | None) -> float:
    assert plan is not None
    return min(table.noise_multiplier for table in plan.counts)


USUAL = asks()
EIGHT = (asks("privacy.epsilon=8"),)
CASES = (
    Case("lifetime_epsilon", 13.0, asks("privacy.epsilon=8"), asks("privacy.epsilon=13.1"), "epsilon"),
    Case("lifetime_epsilon", 13.0, asks("privacy.epsilon=4"), asks("privacy.epsilon=8"), "budget", before=EIGHT),
    Case("lifetime_delta", 1e-3, USUAL, asks("privacy.delta=1.1e-3"), "delta"),
    Case("per_run_epsilon", 8.0, asks("privacy.epsilon=8"), asks("privacy.epsilon=8.1"), "epsilon"),
    Case("most_steps", 3, asks("rounds=3"), asks("rounds=4"), "steps"),
    Case("most_steps", 3, asks("rounds=3"), asks("rounds=2", "privacy.steps_per_round=2"), "steps"),
    Case("min_noise_multiplier", noise_of, USUAL, asks("privacy.epsilon=8.1"), "noise"),
    Case(
        "min_table_noise_multiplier",
        table_noise_of,
        USUAL,
        asks("privacy.epsilon=8.1"),
        "table-noise",
    ),
    Case("k_min", 4, asks("secagg.k_min=4"), asks("secagg.k_min=3"), "cohort"),
    Case(
        "allowed_purposes",
        ("training", "evaluation", "audit"),
        USUAL,
        asks("data.normalisation=federated"),
        "purpose",
    ),
    Case("allowed_purposes", ("training", "evaluation"), asks("audit.attributes=[]"), USUAL, "purpose"),
    Case("allowed_tasks", ("sick",), USUAL, asks("objective.task=ill"), "task"),
    Case("allowed_attributes", ("sex",), USUAL, asks("audit.attributes=[sex,age]"), "attribute"),
    Case("allowed_modalities", ("labs", "vitals"), Run(modalities=("labs", "vitals")), USUAL, "modality"),
    Case(
        "allowed_blocks",
        ("encoder", "auxiliary", "fusion", "head/sick"),
        USUAL,
        asks("objective.task=ill"),
        "block",
    ),
    Case(
        "allowed_blocks",
        ("encoder/labs", "encoder/vitals", "auxiliary", "fusion", "head"),
        Run(modalities=("labs", "vitals")),
        asks("federation.personal=[encoder/ward]"),
        "block",
    ),
    Case("allowed_normalisation", ("none", "federated"), USUAL, asks("data.normalisation=site"), "normalisation"),
    Case("allowed_peers", PEERS, USUAL, Run(peers=(*PEERS, "site-9")), "peer"),
    Case("allowed_bundles", (bundle_hash(),), USUAL, USUAL, "bundle", other=("0" * 64,)),
    Case("allow_no_privacy", False, USUAL, asks("privacy=none"), "no-privacy"),
    Case("allow_no_secagg", False, USUAL, asks("secagg=none"), "no-secagg"),
    Case("require_post_quantum", True, asks("secagg.post_quantum=true"), USUAL, "post-quantum"),
    Case("allow_distributed_noise", False, USUAL, asks("privacy=distributed"), "distributed-noise"),
    Case(
        "spent_subjects",
        "refuse",
        asks("privacy.epsilon=4"),
        asks("privacy.epsilon=8"),
        "budget",
        rule="lifetime_epsilon",
        before=EIGHT,
        also={"lifetime_epsilon": 13.0},
    ),
    Case(
        "spent_subjects",
        "leave-out",
        asks("privacy.epsilon=8"),
        asks("privacy.epsilon=12.9"),  # an empty ledger would not hold it either
        "budget",
        rule="lifetime_epsilon",
        before=EIGHT,
        also={"lifetime_epsilon": 13.0},
    ),
    Case("ledger", None, USUAL, USUAL, "ledger", before=(USUAL,), other="sqlite:///elsewhere.sqlite"),
)


@dataclass(frozen=True)
class Stand:
    """Four institutions that know two tasks; nobody has asked them for anything yet."""

    place: Path
    federation: Federation
    config: Config

    @staticmethod
    def build(place: Path) -> Stand:
        root = toy_root(place)
        for path in root.glob("*/dataset.yaml"):
            spec = yaml.safe_load(path.read_text())
            spec["tasks"]["ill"] = spec["tasks"]["sick"]
            path.write_text(yaml.safe_dump(spec, sort_keys=False))
        config = compose((*SMALL, *QUIET, f"data.root={root}"))
        return Stand(place, prepare(config, place, place), config)

    def site(self, name: str, policy: dict[str, object], run: Run) -> Site:
        """A fresh copy of the victim, records and all, under a policy, on the roster of a run."""
        kept, folder = self.federation.sites[0], self.place / name
        site = Site(kept.name, folder / "data", folder / "state")
        shutil.copytree(kept.folder, site.folder)
        shutil.copytree(kept.state, site.state)
        set_policy(site, policy)
        own = {VICTIM: load_identity(site.identity_path).public_key}
        others = {peer: new_identity().public_key for peer in run.peers}
        site.roster_path.write_bytes(sign_roster(own | others, new_identity()).to_bytes())
        return site

    def resolved(self, run: Run) -> Config:
        """The run's configuration, with the schema of the modalities that it reads."""
        schema = self.federation.schema.model_dump(mode="json")
        schema["modalities"] = {key: entry for key, entry in schema["modalities"].items() if key in run.modalities}
        config = compose((*SMALL, *QUIET, f"data.root={self.place / 'data'}", *run.overrides))
        return Described(self.federation.described.names, Schema.model_validate_json(json.dumps(schema))).resolve(
            config
        )

    def plan(self, run: Run) -> PrivacyPlan | None:
        return plan_of(self.resolved(run), num_sites=len(run.peers) + 1)

    def enrol(self, run: Run, name: str) -> Enrol:
        plan = self.plan(run)
        return Enrol(name, self.resolved(run).model_dump_json(), plan.to_json() if plan else "null")

    def task(self, run: Run, name: str) -> Task:
        """The run's first request that reads records."""
        config = self.resolved(run)
        if config.data.normalisation == "federated":
            return Task(name, 0, "normalisation")
        model = build_model(config, schema_of(config), seed=config.seed)
        personal = config.federation.personal
        return Task(name, 1, "training", flatten(model, [block for block in blocks_of(model) if block not in personal]))


def set_policy(site: Site, policy: dict[str, object]) -> None:
    """Replace a site's policy, as its institution may."""
    site.policy_path.unlink(missing_ok=True)
    write_policy(site.policy_path, Policy.model_validate(policy))
