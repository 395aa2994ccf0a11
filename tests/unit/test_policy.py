"""The institution's floor: what it refuses, in which words, and that its file cannot be misread."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import Policy, PolicyBroken, Refused, read_policy, write_policy
from client.policy_rules import Asked, check, check_purpose
from common.config import AuditConfig, Config, DataConfig, ObjectiveConfig, PrivacyConfig, SecaggConfig
from common.messages import Refusal, Settle, Task
from common.privacy.plan import PrivacyPlan, make_plan
from tests.federation_run import prepare_toy

POLICY = Policy.model_validate({"lifetime_epsilon": 20.0, "lifetime_delta": 1e-3})


def config_of(**sections: dict[str, object]) -> Config:
    """The sections of a configuration that a policy looks at; the others stay out."""
    chosen: dict[str, Any] = {
        "rounds": 60,
        "data": DataConfig.model_validate({"kind": "heart", "normalisation": "federated", **sections.get("data", {})}),
        "objective": ObjectiveConfig.model_validate(
            {"kind": "classification", "task": "disease", "learning_rate": 0.1, **sections.get("objective", {})}
        ),
        "privacy": PrivacyConfig.model_validate(
            {"kind": "subject", "declared_subjects": 150, **sections.get("privacy", {})}
        ),
        "secagg": SecaggConfig.model_validate({"kind": "masked", **sections.get("secagg", {})}),
        "audit": AuditConfig.model_validate({"attributes": ("sex", "age"), **sections.get("audit", {})}),
    }
    return Config.model_construct(**chosen)


def plan_of(config: Config) -> PrivacyPlan:
    tables = {"normalisation": ("train", 3.0), "evaluation": ("test", 4.0), "audit": ("test", 2.5)}
    return make_plan(config.privacy, rounds=60, counts_needed=tables)


def policy_of(**changes: object) -> Policy:
    return Policy.model_validate({**POLICY.model_dump(), **changes})


def code_of(policy: Policy, config: Config, plan: PrivacyPlan | None) -> str | None:
    try:
        check(policy, Asked(config, plan, ("clinical",), ("site-1", "site-2"), "0" * 64))
    except Refused as refusal:
        return refusal.code
    return None


def test_the_default_policy_allows_an_ordinary_run() -> None:
    config = config_of()
    assert code_of(POLICY, config, plan_of(config)) is None


@dataclass(frozen=True)
class Broken:
    """A policy, a configuration and the rule that it breaks."""

    code: str
    policy: dict[str, object]
    config: dict[str, dict[str, object]]


RULES = [
    Broken("no-secagg", {}, {"secagg": {"kind": "none"}}),
    Broken("post-quantum", {"require_post_quantum": True}, {}),
    Broken("post-quantum", {"require_post_quantum": True, "allow_no_secagg": True}, {"secagg": {"kind": "none"}}),
    Broken("cohort", {"k_min": 5}, {}),
    Broken("epsilon", {"per_run_epsilon": 7.9}, {}),
    Broken("epsilon", {"lifetime_epsilon": 7.9}, {}),
    Broken("delta", {"lifetime_delta": 1e-4}, {}),
    Broken("noise", {"min_noise_multiplier": 50.0}, {}),
    Broken("purpose", {"allowed_purposes": ("training", "evaluation", "normalisation")}, {}),
    Broken("purpose", {"allowed_purposes": ("training", "evaluation", "audit")}, {}),
    Broken("purpose", {"allowed_purposes": ()}, {}),
    Broken("task", {"allowed_tasks": ("mortality",)}, {}),
    Broken("attribute", {"allowed_attributes": ("sex",)}, {}),
]


@pytest.mark.parametrize("broken", RULES, ids=lambda broken: f"{broken.code}-{broken.policy}")
def test_each_rule_refuses_by_its_own_code(broken: Broken) -> None:
    config = config_of(**broken.config)
    assert code_of(policy_of(**broken.policy), config, plan_of(config)) == broken.code


@pytest.mark.parametrize(
    ("policy", "config"),
    [
        ({"per_run_epsilon": 8.0}, {}),
        ({"k_min": 3, "allowed_tasks": ("disease",), "allowed_attributes": ("age", "sex")}, {}),
        ({"allow_no_secagg": True, "k_min": 9}, {"secagg": {"kind": "none"}}),
        ({"require_post_quantum": True}, {"secagg": {"post_quantum": True}}),
        ({}, {"secagg": {"post_quantum": True}}),
        ({"allowed_purposes": ("training", "evaluation", "audit")}, {"data": {"normalisation": "none"}}),
        ({"allowed_purposes": ("training", "evaluation", "normalisation")}, {"audit": {"attributes": ()}}),
    ],
)
def test_what_just_keeps_a_rule_is_allowed(policy: dict[str, object], config: dict[str, dict[str, object]]) -> None:
    run = config_of(**config)
    assert code_of(policy_of(**policy), run, plan_of(run)) is None


def test_a_run_without_privacy_needs_leave() -> None:
    config = config_of(privacy={"kind": "none"})
    assert code_of(POLICY, config, None) == "no-privacy"
    assert code_of(policy_of(allow_no_privacy=True), config, None) is None


def test_noise_that_is_shared_out_needs_leave_and_is_held_to_the_smallest() -> None:
    config = config_of(privacy={"kind": "distributed"})
    plan = make_plan(config.privacy, rounds=60, counts_needed={}, summed=(4, 3000))
    assert code_of(POLICY, config, plan) == "distributed-noise"
    assert code_of(policy_of(allow_distributed_noise=True), config, plan) is None
    smallest = {"allow_distributed_noise": True, "min_noise_multiplier": plan.noise_multiplier}
    assert code_of(policy_of(**smallest), config, plan) is None
    smallest["min_noise_multiplier"] = 1.01 * plan.noise_multiplier
    assert code_of(policy_of(**smallest), config, plan) == "noise"
    assert code_of(POLICY, config, replace(plan, lattice=None)) is None


def test_repeatable_noise_is_refused_outside_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(privacy={"test_noise_seed": 1})
    assert code_of(POLICY, config, plan_of(config)) is None
    monkeypatch.delenv("FEDMOSAIC_TESTING")
    assert code_of(POLICY, config, plan_of(config)) == "test-noise"


def test_a_plan_that_costs_more_than_it_says_is_refused() -> None:
    config = config_of()
    plan = plan_of(config)
    cheat = replace(plan, noise_multiplier=0.99 * plan.noise_multiplier)
    assert code_of(POLICY, config, cheat) == "plan"
    tables = tuple(replace(table, noise_multiplier=0.98 * table.noise_multiplier) for table in plan.counts)
    assert code_of(POLICY, config, replace(plan, counts=tables)) == "plan"
    assert code_of(POLICY, config, replace(plan, noise_multiplier=2 * plan.noise_multiplier)) is None


def test_one_request_is_held_to_the_allowed_purposes() -> None:
    policy = policy_of(allowed_purposes=("training",))
    check_purpose(policy, "training")
    with pytest.raises(Refused, match="not audit"):
        check_purpose(policy, "audit")


def test_the_default_file_says_every_key_and_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    policy = policy_of(lifetime_delta=1e-5, allow_no_privacy=True)
    write_policy(path, policy)
    assert read_policy(path) == policy
    text = path.read_text()
    assert all(f"\n{name}:" in text for name in Policy.model_fields)
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.yaml"]


def test_a_small_delta_is_a_number_for_whoever_reads_the_file(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy.yaml", policy_of(lifetime_delta=1e-5))
    assert yaml.safe_load((tmp_path / "policy.yaml").read_text())["lifetime_delta"] == 1e-5


def test_a_policy_that_says_no_more_than_its_budget_forbids_what_protects_less() -> None:
    assert (POLICY.allow_no_privacy, POLICY.allow_no_secagg, POLICY.k_min) == (False, False, 3)
    assert not POLICY.allow_distributed_noise


def test_an_institutions_policy_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("lifetime_epsilon: 1.0\nlifetime_delta: 1.0e-6\n")
    with pytest.raises(FileExistsError):
        write_policy(path, POLICY)
    assert read_policy(path).lifetime_epsilon == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.yaml"]


GOOD = "lifetime_epsilon: 20\nlifetime_delta: 0.001\n"


@pytest.mark.parametrize(
    ("text", "complaint", "fix"),
    [
        (f"{GOOD}lifetime_epsilom: 3\n", "lifetime_epsilom: is no key", "did you mean lifetime_epsilon"),
        (f"{GOOD}surveillance: true\n", "surveillance: is no key", "take it out"),
        ("lifetime_delta: 0.001\n", "lifetime_epsilon: is missing", r"add it \(Budget of a subject"),
        ("lifetime_epsilon: -1\nlifetime_delta: 0.001\n", "lifetime_epsilon", "correct it"),
        ("lifetime_epsilon: .inf\nlifetime_delta: 0.001\n", "lifetime_epsilon", "correct it"),
        ("lifetime_epsilon: .nan\nlifetime_delta: 0.001\n", "lifetime_epsilon", "correct it"),
        ("lifetime_epsilon: 20\nlifetime_delta: 1\n", "lifetime_delta", "correct it"),
        (f"{GOOD}k_min: 1\n", "k_min", "Smallest number of sites"),
        (f"{GOOD}k_min: many\n", "k_min", "Smallest number of sites"),
        (f"{GOOD}k_min: 5\nk_min: 2\n", "k_min: is there 2 times", "keep the one that is meant"),
        (f"{GOOD}allow_no_privacy: 1\n", "allow_no_privacy", "correct it"),
        (f"{GOOD}allow_no_privacy: 'no'\n", "allow_no_privacy", "correct it"),
        (f"{GOOD}per_run_epsilon: 21\n", "per_run_epsilon", "must be at most lifetime_epsilon"),
        (f"{GOOD}allowed_purposes: [surveillance]\n", "allowed_purposes", "What records may be read for"),
        (f"{GOOD}allowed_normalisation: [all]\n", "allowed_normalisation", "How values may be scaled"),
        (f"{GOOD}allowed_tasks: sick\n", "allowed_tasks", "Labels that may be learned"),
        (f"{GOOD}allowed_peers:\n", "allowed_peers", "Institutions that may be on the roster"),
        (f"{GOOD}most_steps: 0\n", "most_steps", "Most steps of one run"),
        (f"{GOOD}spent_subjects: ignore\n", "spent_subjects", "refuse"),
        ("- 1\n", "must hold keys and values", "write `key: value`"),
        ("", "must hold keys and values", "write `key: value`"),
        ("a: [", "cannot be read as YAML", "correct it"),
        ("[" * 10_000, "cannot be read as YAML", "correct it"),
        ("a: 2001-99-99\n", "cannot be read as YAML", "correct it"),
        ("!!python/object:os.system x\n", "cannot be read as YAML", "correct it"),
    ],
)
def test_a_policy_that_cannot_be_meant_names_file_key_and_fix(
    tmp_path: Path, text: str, complaint: str, fix: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyBroken, match=rf"policy\.yaml.*{complaint}.*{fix}"):
        read_policy(path)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_policy_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "policy.yaml"
    write_policy(path, POLICY)
    assert read_policy(path) == POLICY
    path.chmod(mode)
    with pytest.raises(PolicyBroken, match=r"policy\.yaml can be written by others .* chmod go-w"):
        read_policy(path)


def test_a_policy_is_written_so_that_it_can_be_read_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_policy(tmp_path / "policy.yaml", POLICY)
    finally:
        os.umask(before)
    assert read_policy(tmp_path / "policy.yaml") == POLICY


def test_a_file_of_an_earlier_release_allows_what_it_allowed(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"{GOOD}k_min: 3\nallowed_tasks: ['*']\n")
    assert read_policy(path) == POLICY


def break_file(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Path.unlink, "restore it"),
        (break_file, "restore it"),
        (lambda path: path.write_text("k_min: ["), "correct it"),
        (lambda path: path.write_text(path.read_text() + "k_mim: 3\n"), "did you mean k_min?"),
        (lambda path: path.write_text(path.read_text().replace("k_min: 3", "k_min: lots")), "k_min"),
        (lambda path: path.chmod(0o666), "chmod go-w"),
    ],
    ids=["missing", "no text", "no YAML", "unknown key", "wrong type", "others may write"],
)
def test_a_broken_policy_closes_the_door_and_the_sites_log_says_what_to_do(
    tmp_path: Path, broken: Callable[[Path], object], said: str
) -> None:
    prepared = prepare_toy(tmp_path, "data.normalisation=none", "audit.attributes=[]")
    site, run = prepared.sites[0], prepared.folder.name
    policy = read_policy(site.policy_path)
    broken(site.policy_path)
    for request in (replace(prepared.request, run="next"), Task(run, 1, "training"), Settle(run)):
        assert answer(site, lambda request=request: request) == Refusal("policy")  # type: ignore[misc]
        reason = str(site.logged("refused")[-1]["reason"])
        assert str(site.policy_path) in reason
        assert said in reason
    site.policy_path.unlink(missing_ok=True)
    write_policy(site.policy_path, policy)
    with open_ledger(site, policy) as ledger:
        assert [entry.kind for entry in ledger.entries()] == ["header", "reserve"]
