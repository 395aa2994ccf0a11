"""The institution's own floor: what it allows, read from its `policy.yaml`, whatever a run asks for."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.privacy.noise import TESTING_VARIABLE

if TYPE_CHECKING:
    from common.config import Config
    from common.privacy.plan import PrivacyPlan

Purpose = Literal["training", "normalisation", "evaluation", "audit"]
EVERYTHING = "*"
_ALL_PURPOSES: tuple[Purpose, ...] = ("training", "normalisation", "evaluation", "audit")
_ROUNDING = 1e-9


class Refused(Exception):
    """A request that this institution does not carry out.

    `code` is one of a fixed set of short words and may leave the site; the sentence stays in its own log.
    """

    def __init__(self, code: str, reason: str) -> None:
        """Keep the code; the reason becomes the exception's text."""
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        """The sentence."""
        return self.reason


class Policy(BaseModel):
    """What one institution allows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lifetime_epsilon: Annotated[float, Field(gt=0, description="Budget of a subject over all runs, for ever.")]
    lifetime_delta: Annotated[
        float, Field(gt=0, lt=1, description="Delta of that budget; fixed once there is a ledger.")
    ]
    per_run_epsilon: float | None = Field(
        default=None, gt=0, description="Largest epsilon of one run; default: the lifetime's."
    )
    min_noise_multiplier: float = Field(
        default=0.0,
        ge=0,
        description="Smallest noise of a training step, std / clip norm: this site's own, or where the sites share it"
        " out, all of it.",
    )
    k_min: int = Field(default=3, ge=2, description="Smallest number of sites that may be added up.")
    allowed_purposes: tuple[Purpose, ...] = Field(default=_ALL_PURPOSES, description="What records may be read for.")
    allowed_tasks: tuple[str, ...] = Field(default=(EVERYTHING,), description="Labels that may be learned; * is any.")
    allowed_attributes: tuple[str, ...] = Field(
        default=(EVERYTHING,), description="Attributes that may be audited by; * is any."
    )
    allow_no_privacy: bool = Field(
        default=False, description="Whether a run without differential privacy may read records."
    )
    allow_no_secagg: bool = Field(default=False, description="Whether the server may see this site's own contribution.")
    require_post_quantum: bool = Field(
        default=False, description="Whether masks must also withstand who records the traffic and breaks X25519 later."
    )
    allow_distributed_noise: bool = Field(
        default=False,
        description="Whether training noise may be shared out: sites that collude with the server could then undo it.",
    )

    spent_subjects: Literal["refuse", "leave-out"] = Field(
        default="refuse",
        description="When the budget is gone: refuse the run, whoever is in the folder; or leave-out: take the run, and"
        " leave out the subjects whose own budget does not hold it, which the server cannot see.",
    )
    ledger: str | None = Field(
        default=None,
        description="Where the privacy ledger is kept: postgresql://... ; default: ledger.sqlite beside this file. The"
        " password belongs into a file that PGPASSFILE names.",
    )

    encrypt_features: bool = Field(
        default=False, description="Whether what frozen encoders said of records is encrypted where it is kept."
    )

    @model_validator(mode="after")
    def _run_within_lifetime(self) -> Self:
        if self.per_run_epsilon is not None and self.per_run_epsilon > self.lifetime_epsilon:
            raise ValueError(
                f"per_run_epsilon {self.per_run_epsilon} must be at most lifetime_epsilon {self.lifetime_epsilon}"
            )
        return self


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        ValueError: the file is missing or no YAML, or a key is unknown, missing, mistyped or out of range.
    """
    try:
        return _parsed(path.name, path.read_text())
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


@lru_cache(maxsize=64)  # every stage of every round asks; the file is read each time, the same text parsed once
def _parsed(name: str, text: str) -> Policy:
    try:
        body = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise ValueError(f"{name} must hold keys and values, got {type(body).__name__}")
    try:
        return Policy.model_validate(body)
    except ValidationError as error:
        faults = (
            f"{'.'.join(str(part) for part in fault['loc']) or 'keys'}: {fault['msg']}" for fault in error.errors()
        )
        raise ValueError(f"{name}: {'; '.join(faults)}") from error


def write_policy(path: Path, policy: Policy) -> None:
    """Write a new policy, every key with what it means.

    Raises:
        FileExistsError: there is one already; a policy is the institution's own and never overwritten.
    """
    lines = ["# This institution's own floor. No run, and no server, can go below it."]
    for name, field in Policy.model_fields.items():
        value = policy.model_dump(mode="json")[name]
        lines += [f"# {field.description}", f"{name}: {json.dumps(value)}"]  # JSON is YAML
    _write_new(path, "\n".join(lines) + "\n")


def check(policy: Policy, config: Config, plan: PrivacyPlan | None) -> None:
    """Hold a whole run against the policy, before any record is read.

    Raises:
        Refused: the first rule that the run breaks.
    """
    _check_protection(policy, config, plan)
    if plan is not None:
        _check_plan(policy, plan)
    purposes = ["training", "evaluation"]
    purposes += ["normalisation"] if config.data.normalisation != "none" else []
    purposes += ["audit"] if config.audit.attributes else []
    for purpose in purposes:
        check_purpose(policy, purpose)
    _check_listed(policy.allowed_tasks, (config.objective.task,), "task")
    _check_listed(policy.allowed_attributes, config.audit.attributes, "attribute")


def check_purpose(policy: Policy, purpose: str) -> None:
    """Hold one request against the policy.

    Raises:
        Refused: records may not be read for this.
    """
    if purpose not in policy.allowed_purposes:
        raise Refused("purpose", f"allowed_purposes has {', '.join(policy.allowed_purposes)}, not {purpose}")


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
    largest = policy.lifetime_epsilon if policy.per_run_epsilon is None else policy.per_run_epsilon
    if plan.epsilon > largest:
        raise Refused("epsilon", f"the run asks for epsilon {plan.epsilon:g}, and {largest:g} is allowed")
    if plan.delta > policy.lifetime_delta:
        raise Refused("delta", f"the run asks for delta {plan.delta:g}, and {policy.lifetime_delta:g} is allowed")
    if plan.noise_multiplier < policy.min_noise_multiplier:
        raise Refused(
            "noise",
            f"noise multiplier {plan.noise_multiplier:g} is below min_noise_multiplier {policy.min_noise_multiplier:g}",
        )
    for cohort, epsilon in plan.epsilons().items():
        if epsilon > plan.epsilon * (1 + _ROUNDING):
            raise Refused(
                "plan", f"the plan promises epsilon {plan.epsilon:g} and costs {epsilon:g} in cohort {cohort}"
            )


def _check_listed(allowed: tuple[str, ...], asked: tuple[str, ...], what: str) -> None:
    if EVERYTHING in allowed:
        return
    for name in asked:
        if name not in allowed:
            raise Refused(what, f"allowed_{what}s has {', '.join(allowed)}, not {name}")


def _write_new(path: Path, text: str) -> None:
    """Write a new file whole or not at all."""
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        draft.write_text(text)
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
