"""The policy's rules: a whole run is held against every key before a record is read, and again at every request."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from client.bundle import bundle_hash
from client.policy import EVERYTHING, Policy, Refused
from client.site import Site
from common.blocks import blocks_of, held_blocks, is_named
from common.config import Config
from common.models.model import build_model
from common.privacy.noise import TESTING_VARIABLE
from common.privacy.plan import PrivacyPlan
from common.refusals import Code
from common.releases import schema_of
from common.secagg.roster import Roster

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Asked:
    """All that a policy may judge a run by; nothing of it comes from a record.

    Attributes:
        modalities: those of the run that this site's dataset.yaml describes.
        peers: the other institutions on the roster.
        bundle: hash of the code that runs here.
    """

    config: Config
    plan: PrivacyPlan | None
    modalities: tuple[str, ...]
    peers: tuple[str, ...]
    bundle: str


def asked_of(site: Site, config: Config, plan: PrivacyPlan | None) -> Asked:
    """What a run asks of a site as it stands today."""
    institutions = {name for name, _ in Roster.from_bytes(site.roster_path.read_bytes()).entries}
    return Asked(
        config=config,
        plan=plan,
        modalities=tuple(sorted(set(site.spec().modalities) & set(schema_of(config).modalities))),
        peers=tuple(sorted(institutions - {site.name})),
        bundle=bundle_hash(),
    )


def check(policy: Policy, asked: Asked) -> None:
    """Hold a whole run against the policy, before any record is read.

    Raises:
        Refused: the first rule that the run breaks; the sentence names the policy's key.
    """
    config, plan = asked.config, asked.plan
    _check_protection(policy, config, plan)
    if plan is not None:
        _check_plan(policy, plan)
    steps = config.rounds * config.privacy.steps_per_round
    if policy.most_steps is not None and steps > policy.most_steps:
        raise Refused("steps", f"the run takes {steps} steps, and most_steps is {policy.most_steps}")
    purposes = ["training", "evaluation"]
    purposes += ["normalisation"] if config.data.normalisation != "none" else []
    purposes += ["audit"] if config.audit.attributes else []
    for purpose in purposes:
        check_purpose(policy, purpose)
    listed: tuple[tuple[Code, str, tuple[str, ...], Iterable[str]], ...] = (
        ("task", "allowed_tasks", policy.allowed_tasks, (config.objective.task,)),
        ("attribute", "allowed_attributes", policy.allowed_attributes, config.audit.attributes),
        ("modality", "allowed_modalities", policy.allowed_modalities, asked.modalities),
        ("normalisation", "allowed_normalisation", policy.allowed_normalisation, (config.data.normalisation,)),
        ("peer", "allowed_peers", policy.allowed_peers, asked.peers),
        ("bundle", "allowed_bundles", policy.allowed_bundles, (asked.bundle,)),
    )
    for code, key, allowed, names in listed:
        for name in names:
            if name not in allowed and EVERYTHING not in allowed:
                raise Refused(code, f"{key} has {_said(allowed)}, not {name}")
    _check_blocks(policy, asked)


def check_purpose(policy: Policy, purpose: str) -> None:
    """Hold one request against the policy.

    Raises:
        Refused: records may not be read for this.
    """
    if purpose not in policy.allowed_purposes:
        raise Refused("purpose", f"allowed_purposes has {_said(policy.allowed_purposes)}, not {purpose}")


def _check_protection(policy: Policy, config: Config, plan: PrivacyPlan | None) -> None:
    if plan is None and not policy.allow_no_privacy:
        raise Refused("no-privacy", "the run has no differential privacy, and allow_no_privacy is false")
    if config.privacy.test_noise_seed is not None and os.environ.get(TESTING_VARIABLE) != "1":
        raise Refused("test-noise", f"the run asks for repeatable noise, which needs {TESTING_VARIABLE}=1 at this site")
    if config.secagg.kind == "none" and not policy.allow_no_secagg:
        raise Refused("no-secagg", "the run has no secure aggregation, and allow_no_secagg is false")
    if policy.require_post_quantum and not config.secagg.post_quantum:
        raise Refused("post-quantum", "secagg.post_quantum is false, and require_post_quantum is true")
    if plan is not None and plan.lattice is not None and not policy.allow_distributed_noise:
        reason = "the run shares the training noise out between the sites, and allow_distributed_noise is false"
        raise Refused("distributed-noise", reason)
    if config.secagg.kind != "none" and config.secagg.k_min < policy.k_min:
        raise Refused("cohort", f"the run adds up as few as {config.secagg.k_min} sites, and k_min is {policy.k_min}")


def _check_plan(policy: Policy, plan: PrivacyPlan) -> None:
    """Hold the plan's own figures to the policy, and what it says to what its charges really cost."""
    key = "lifetime_epsilon" if policy.per_run_epsilon is None else "per_run_epsilon"
    largest = policy.lifetime_epsilon if policy.per_run_epsilon is None else policy.per_run_epsilon
    if plan.epsilon > largest:
        raise Refused("epsilon", f"the run asks for epsilon {plan.epsilon:g}, and {key} is {largest:g}")
    if plan.delta > policy.lifetime_delta:
        reason = f"the run asks for delta {plan.delta:g}, and lifetime_delta is {policy.lifetime_delta:g}"
        raise Refused("delta", reason)
    if plan.noise_multiplier < policy.min_noise_multiplier:
        raise Refused(
            "noise",
            f"noise multiplier {plan.noise_multiplier:g} is below min_noise_multiplier {policy.min_noise_multiplier:g}",
        )
    for table in plan.counts:
        if table.noise_multiplier < policy.min_table_noise_multiplier:
            raise Refused(
                "table-noise",
                f"{table.purpose}: noise multiplier {table.noise_multiplier:g} is below min_table_noise_multiplier"
                f" {policy.min_table_noise_multiplier:g}",
            )
    for cohort, epsilon in plan.epsilons().items():
        if epsilon > plan.epsilon * (1 + _ROUNDING):
            raise Refused(
                "plan", f"the plan promises epsilon {plan.epsilon:g} and costs {epsilon:g} in cohort {cohort}"
            )


def _check_blocks(policy: Policy, asked: Asked) -> None:
    """Hold the blocks that this site trains to the policy: it does not train those of modalities that it lacks."""
    if EVERYTHING in policy.allowed_blocks:  # spares building the model
        return
    model = build_model(asked.config, schema_of(asked.config), seed=asked.config.seed)
    for block in held_blocks(blocks_of(model), asked.modalities):
        if not is_named(block, policy.allowed_blocks):
            raise Refused("block", f"allowed_blocks has {_said(policy.allowed_blocks)}, not {block}")


def _said(allowed: tuple[str, ...]) -> str:
    return ", ".join(allowed) or "nothing"
