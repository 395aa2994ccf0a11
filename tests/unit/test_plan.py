"""The plan: what it charges, how it divides epsilon, and that it cannot be read wrongly."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from common.config import PrivacyConfig
from common.privacy.accounting import pld_epsilon
from common.privacy.plan import Charge, CountRelease, Event, PrivacyPlan, make_plan

TABLES = {"normalisation": ("train", 3.0), "evaluation": ("test", 4.0), "audit": ("test", 2.5)}


def config_of(**changes: object) -> PrivacyConfig:
    return PrivacyConfig.model_validate({"kind": "subject", "declared_subjects": 150, **changes})


@pytest.fixture
def plan() -> PrivacyPlan:
    return make_plan(config_of(), rounds=60, counts_needed=TABLES)


def test_everything_the_run_releases_is_charged(plan: PrivacyPlan) -> None:
    assert plan.charges() == (
        Charge("train", "training", Event("gaussian", plan.noise_multiplier, 1.0, 60)),
        *(
            Charge(table.cohort, table.purpose, Event("discrete_gaussian", table.noise_multiplier, 1.0, 1))
            for table in plan.counts
        ),
    )
    assert {table.purpose: (table.cohort, table.l2_sensitivity) for table in plan.counts} == TABLES


def test_shares_of_epsilon_go_where_the_configuration_says(plan: PrivacyPlan) -> None:
    tables = {table.purpose: Event("discrete_gaussian", table.noise_multiplier, 1.0, 1) for table in plan.counts}
    assert pld_epsilon([tables["normalisation"]], plan.delta) == pytest.approx(0.1 * plan.epsilon, rel=1e-4)
    assert pld_epsilon([tables["audit"]], plan.delta) == pytest.approx(0.5 * plan.epsilon, rel=1e-4)


def test_each_cohort_spends_all_of_epsilon_and_no_more(plan: PrivacyPlan) -> None:
    for epsilon in plan.epsilons().values():
        assert 0.9999 * plan.epsilon <= epsilon <= plan.epsilon


def test_divisor_is_public_and_not_the_sites_size() -> None:
    plan = make_plan(config_of(sampling_rate=0.5, epsilon=1.0), rounds=5, counts_needed={})
    assert plan.divisor == 0.5 * 150


def test_a_plan_without_tables_spends_all_on_training() -> None:
    plan = make_plan(config_of(epsilon=2.0), rounds=10, counts_needed={})
    assert plan.counts == ()
    assert plan.epsilons() == {"train": pytest.approx(2.0, rel=1e-4)}


def test_json_round_trip_is_exact(plan: PrivacyPlan) -> None:
    again = PrivacyPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"surprise": 1}, "unknown surprise"),
        ({"delta": None}, "delta"),
        ({"noise_multiplier": 0.0}, "noise_multiplier must be a number > 0"),
        ({"noise_multiplier": 1e-156}, "noise_multiplier must be at least"),
        ({"noise_multiplier": 1e10}, "at most 1e[+]09"),
        ({"noise_multiplier": True}, "noise_multiplier must be a number > 0"),
        ({"epsilon": "8"}, "epsilon must be a number > 0"),
        ({"rounds": 1.5}, "rounds must be of type int"),
        ({"rounds": 10**9}, "must be at most 10,000,000"),
        ({"sampling_rate": 1.5}, "sampling_rate must be within"),
        ({"adjacency": "replace one"}, "adjacency must be"),
        ({"sampling": "shuffle"}, "sampling must be"),
        ({"unit": "row"}, "unit must be"),
        ({"counts": {}}, "counts must be a list"),
        ({"counts": [[]]}, "CountRelease must be a JSON object"),
        ({"counts": [{"purpose": "audit"}]}, "CountRelease: missing"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_by_name(
    plan: PrivacyPlan, change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        PrivacyPlan.from_json(json.dumps({**json.loads(plan.to_json()), **change}))


@pytest.fixture
def shared() -> PrivacyPlan:
    return make_plan(config_of(kind="distributed"), rounds=60, counts_needed=TABLES, summed=(4, 3000))


def test_noise_that_sites_share_out_is_charged_as_what_it_is(shared: PrivacyPlan, plan: PrivacyPlan) -> None:
    steps = Event("discrete_gaussian", shared.noise_multiplier, 1.0, 60)
    assert shared.charges()[0] == Charge("train", "training", steps)
    assert shared.charges()[1:] == plan.charges()[1:]
    assert (shared.training_mechanism, plan.training_mechanism) == ("discrete_gaussian", "gaussian")
    assert 0 < shared.noise_multiplier - plan.noise_multiplier < 1e-3, "the lattice costs next to nothing"
    for epsilon in shared.epsilons().values():
        assert 0.9999 * shared.epsilon <= epsilon <= shared.epsilon
    assert PrivacyPlan.from_json(shared.to_json()) == shared


def test_a_plan_without_a_lattice_has_no_step(plan: PrivacyPlan, shared: PrivacyPlan) -> None:
    assert shared.lattice is not None
    assert shared.step * shared.lattice.clip_steps == shared.clip_norm
    with pytest.raises(ValueError, match="no step"):
        _ = plan.step


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lattice": 3}, "Lattice must be a JSON object"),
        ({"lattice": {"sites": 4}}, "Lattice: missing clip_steps, coordinates"),
        ({"lattice": {"sites": 4, "coordinates": 3000, "clip_steps": 1}}, "clip_steps must be (1048576|2097152)"),
        ({"lattice": {"sites": True, "coordinates": 3000, "clip_steps": 2}}, "lattice.sites must be an integer >= 1"),
        ({"lattice": {"sites": 4, "coordinates": 0, "clip_steps": 2}}, "lattice.coordinates must be an integer >= 1"),
        ({"lattice": {"sites": 128, "coordinates": 10**6, "clip_steps": 2}}, "fewer than 50,000,000"),
        ({"sampling_rate": 0.5}, "needs sampling_rate 1 and steps_per_round 1"),
        ({"steps_per_round": 2}, "needs sampling_rate 1 and steps_per_round 1"),
        ({"divisor": 1e300}, "32 bits are too few"),
        ({"noise_multiplier": 1e300}, "32 bits are too few"),
    ],
)
def test_a_lattice_that_cannot_be_meant_is_refused_by_name(
    shared: PrivacyPlan, change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        PrivacyPlan.from_json(json.dumps({**json.loads(shared.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"epsilon":NaN}', '{"epsilon":1,"epsilon":2}'])
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        PrivacyPlan.from_json(text)


def test_infinite_noise_is_no_plan(plan: PrivacyPlan) -> None:
    with pytest.raises(ValueError, match="noise_multiplier must be a number > 0 and finite"):
        PrivacyPlan.from_json(
            plan.to_json().replace(f'"noise_multiplier":{plan.noise_multiplier}', '"noise_multiplier":Infinity')
        )


def test_two_tables_of_one_purpose_are_refused(plan: PrivacyPlan) -> None:
    twice = (CountRelease("audit", "test", 1.0, 2.0), CountRelease("audit", "train", 1.0, 2.0))
    with pytest.raises(ValueError, match="every purpose once"):
        dataclasses.replace(plan, counts=twice)


def test_an_unknown_purpose_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown purpose surveillance"):
        make_plan(config_of(), rounds=5, counts_needed={"surveillance": ("train", 1.0)})


def test_an_epsilon_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be met"):
        make_plan(config_of(epsilon=1e-5, delta=1e-9), rounds=1000, counts_needed={})


def test_planning_unsampled_training_imports_nothing_heavy() -> None:
    script = (
        "import sys, types\n"
        "from common.privacy.plan import make_plan\n"
        "config = types.SimpleNamespace(epsilon=8.0, delta=1e-3, clip_norm=1.0, sampling_rate=1.0, steps_per_round=1,\n"
        "    declared_subjects=150, normalisation_share=0.1, audit_share=0.5)\n"
        "make_plan(config, rounds=60, counts_needed={'audit': ('test', 2.0)}).epsilons()\n"
        "heavy = {'numpy', 'scipy', 'torch', 'dp_accounting', 'opacus', 'pydantic', 'sqlalchemy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_opacus_accountants_come_without_its_engine_and_optimizers() -> None:
    script = (
        "import sys\n"
        "from common.privacy.opacus_parts import load_opacus_package, load_prv_accountant\n"
        "load_opacus_package(); load_prv_accountant(); load_prv_accountant()\n"
        "heavy = {'opacus.privacy_engine', 'opacus.optimizers', 'torch'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("clip_norm", [1e-320, 9.6e-319, 1e-318, 1e-7, 1e7, 1e308])
def test_a_clip_norm_with_which_arithmetic_means_nothing_is_refused(clip_norm: float) -> None:
    with pytest.raises(ValueError, match="clip_norm must be within"):
        PrivacyPlan(8.0, 1e-3, clip_norm, 1.0, 1.0, 1, 10, 7.0, ())


def test_a_sampling_rate_below_what_uniforms_can_say_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling_rate must be within"):
        PrivacyPlan(8.0, 1e-3, 1.0, 1.0, 1e-17, 1, 10, 7.0, ())
