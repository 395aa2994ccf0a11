"""privacy=distributed from first to last: central training, for what was charged, and the refusals that it needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.contribute import Work
from client.dp import Clipping
from client.enrolment import agree, agreement_of, open_ledger
from client.gate import answer
from client.policy import Refused, read_policy
from client.site import Site
from common.blocks import blocks_of, flatten, held_blocks, load
from common.compose import ConfigError
from common.data.batch import take
from common.messages import Advert, Refusal, Reply, Request, Task
from common.models.model import build_model, first_weights
from common.privacy.accounting import pld_epsilon
from common.privacy.events import Charge, Event
from common.privacy.plan import PrivacyPlan, make_plan
from common.reports.limits import not_covered
from common.reports.sentences import in_short
from common.secagg.transcript import read_advert
from server.state import Arrays
from simulations.run import Prepared
from simulations.summary import summary, table
from tests.federation_run import REPEATABLE, prepare_toy, run_toy, same_weights, toy_root
from tests.reference_gradients import one_subject
from tests.toy_federation import write_toy_sites

SHARED = ("privacy=distributed", "privacy.declared_subjects=40", "data.normalisation=none", "audit.attributes=[]")
# With this epsilon there is next to no noise: its multiplier is 0.05.
LOUD = (*SHARED, "privacy.epsilon=1e5", "site.lifetime_epsilon=1e7", "objective.weight_decay=0.02", REPEATABLE)
PLAIN = ("federation.server_optimizer.kind=sgd", "federation.server_optimizer.lr=1.0", "objective.learning_rate=0.7")
LACKING = {"site-3": ("ward",), "site-2": ("labs",), "site-1": ("labs",)}


def _central(prepared: Prepared, *, rounds: int, divisor: float) -> Arrays:
    """The naive twin: everybody's records in one place, one subject at a time, one step a round."""
    config, weights = prepared.config, first_weights(prepared.config)
    clipping = Clipping(config.objective.task, config.objective.auxiliary_weight, config.privacy.clip_norm)
    for _ in range(rounds):
        sums, holders = {name: np.zeros(vector.size) for name, vector in weights.items()}, dict.fromkeys(weights, 0)
        for site in prepared.sites:
            task = Task(prepared.folder.name, 1, "training", weights)
            work = Work(site, agreement_of(site, prepared.folder.name), task, honest=1)
            batch, model = work.batch("train"), work.model()
            batch = take(batch, batch.labels[clipping.task] >= 0)
            total = sum(one_subject(model, batch, int(subject), clipping) for subject in torch.unique(batch.subjects))
            gradient = _by_block(prepared, total.float().numpy())  # type: ignore[union-attr]
            for name in held_blocks(weights, work.data().held):
                sums[name] += gradient[name]
                holders[name] += 1
        for name, vector in weights.items():
            if holders[name] >= 3:
                step = sums[name] / (holders[name] * divisor) + config.objective.weight_decay * vector
                weights[name] = (vector - config.objective.learning_rate * step).astype(np.float32)
    return weights


def _by_block(prepared: Prepared, gradient: np.ndarray) -> Arrays:
    """A gradient in the model's own order of parameters, by block."""
    model = build_model(prepared.config, prepared.config.data_schema, seed=0)  # type: ignore[arg-type]
    torch.nn.utils.vector_to_parameters(torch.from_numpy(gradient), model.parameters())
    return flatten(model, blocks_of(model))


@pytest.mark.slow
def test_without_noise_it_is_central_training(tmp_path: Path) -> None:
    toy_root(tmp_path, lacking=LACKING)
    prepared, record, state = run_toy(tmp_path, *LOUD, *PLAIN)
    assert prepared.plan is not None
    assert prepared.plan.noise_multiplier == 0.05
    noise = 0.7 * 0.05 * np.sqrt(2) * prepared.config.privacy.clip_norm / (3 * prepared.plan.divisor)
    allowed = 6 * noise * np.sqrt(3)  # six standard deviations of three rounds' noise, at the smallest cohort
    central = _central(prepared, rounds=3, divisor=prepared.plan.divisor)
    first = first_weights(prepared.config)
    for name, weights in state.weights.items():
        np.testing.assert_allclose(weights, central[name], atol=allowed, err_msg=name)
    moved = max(np.abs(state.weights[name] - first[name]).max() for name in first)
    assert moved > 15 * allowed
    wrong = _central(prepared, rounds=3, divisor=1.2 * prepared.plan.divisor)
    assert max(np.abs(state.weights[name] - wrong[name]).max() for name in wrong) > 2 * allowed
    # Only two of the four sites hold labs: their two shares of noise would be less than was charged.
    assert {name for round_ in record.rounds for name in round_.left_out} == {"auxiliary/labs", "encoder/labs"}
    assert all(np.array_equal(state.weights[name], first[name]) for name in ("auxiliary/labs", "encoder/labs"))


@pytest.mark.slow
def test_the_run_charges_discrete_noise_and_says_what_it_rests_on(tmp_path: Path) -> None:
    prepared, record, _ = run_toy(tmp_path, *SHARED, REPEATABLE)
    plan = prepared.plan
    assert plan is not None
    assert plan.lattice is not None
    event = Event("discrete_gaussian", plan.noise_multiplier, 1.0, 3)
    assert plan.charges()[0] == Charge("train", "training", event)
    assert 7.99 < pld_epsilon([event], plan.delta) <= 8.0
    for site in prepared.sites:
        with open_ledger(site, read_policy(site.policy_path)) as ledger:
            ledger.verify()
            line = next(line for line in ledger.spent().runs if line.run == prepared.folder.name)
        charged = next(cohort for cohort in line.cohorts if cohort.cohort == "train").charged
        assert [charge.event for charge in charged] == [event]
    assert record.promise.kind == "distributed"
    assert "as long as fewer than 2 of the sites collude" in dict(in_short(record))["Privacy"]
    said = " ".join(not_covered(record))
    assert "2 of them, so many as are honest in every sum, carry all of it" in said
    assert "fewer than 2 sites" in said
    assert "carries only its share of the noise" in said
    assert "64-bit floating point" not in said
    folder = prepared.folder.path
    for page in ("budget/site-0.html", "report.html", "model_card.md"):
        assert "collude" in (folder / page).read_text()
    assert "a share from each site" in (folder / "budget/site-0.html").read_text()
    assert "fewer than 2 sites collude" in "".join(str(part) for part in table(record, "somewhere").renderables)
    printed: Any = summary(record, "somewhere")
    assert printed["privacy"]["kind"] == "distributed"


@pytest.mark.slow
def test_full_noise_of_each_site_says_none_of_that(tmp_path: Path) -> None:
    prepared, record, _ = run_toy(tmp_path, "data.normalisation=none", "audit.attributes=[]", "rounds=1", REPEATABLE)
    assert record.promise.kind == "subject"
    assert "collude with whoever looks" not in dict(in_short(record))["Privacy"]
    assert "Training noise was shared out" not in " ".join(not_covered(record))
    assert "a share from each site" not in (prepared.folder.path / "budget/site-0.html").read_text()


@pytest.mark.slow
def test_the_same_test_noise_gives_the_same_model_and_a_drop_out_another(tmp_path: Path) -> None:
    quiet = (*SHARED, REPEATABLE, "rounds=2")
    one = run_toy(tmp_path / "one", *quiet)[2]
    assert same_weights(one, run_toy(tmp_path / "two", *quiet)[2])
    _, record, dropped = run_toy(tmp_path / "three", *quiet, "drop=[site-1@2]")
    assert not same_weights(one, dropped)
    assert record.rounds[1].sites == ("site-0", "site-2", "site-3")


@pytest.mark.slow
def test_too_few_shares_of_noise_release_nothing(tmp_path: Path) -> None:
    # Of five sites four must stay, also where each of them would let itself be summed with two others.
    write_toy_sites(tmp_path / "data", sites=5)
    quiet = (*SHARED, REPEATABLE, "rounds=2", "secagg.k_min=3", "drop=[site-1@2,site-2@2]")
    prepared, record, _ = run_toy(tmp_path, *quiet)
    assert [len(round_.sites) for round_ in record.rounds] == [5, 0]
    models = [weights for _, weights in prepared.folder.journal.models()]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[0])


def _say(site: Site, request: Request) -> Reply:
    return answer(site, lambda: request)


def _five_sites(place: Path, *overrides: str) -> Prepared:
    write_toy_sites(place / "data", sites=5)
    return prepare_toy(place, *SHARED, "rounds=1", *overrides)


@pytest.mark.parametrize(("kind", "smallest"), [("distributed", 4), ("subject", 3)])
def test_a_site_lets_itself_be_summed_only_with_as_many_as_carry_the_noise(
    tmp_path: Path, kind: str, smallest: int
) -> None:
    prepared = _five_sites(tmp_path, f"privacy={kind}", "privacy.declared_subjects=40")
    reply = _say(prepared.sites[0], Task(prepared.folder.name, 1, "training", first_weights(prepared.config)))
    assert isinstance(reply, Advert)
    assert read_advert(reply.advert).k_min == smallest


def _replanned(prepared: Prepared, **changes: object) -> str:
    return json.dumps({**json.loads(prepared.request.plan), **changes})


def test_a_plan_that_is_not_the_configurations_is_refused_by_the_site(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *SHARED)
    site, plan = prepared.sites[0], prepared.plan
    assert plan is not None
    assert plan.lattice is not None

    def wide(sites: int, coordinates: int) -> PrivacyPlan:
        return make_plan(prepared.config.privacy, rounds=3, counts_needed=_tables(plan), summed=(sites, coordinates))

    lattice = json.loads(prepared.request.plan)["lattice"]
    hostile = {
        "full noise that is none": _replanned(prepared, lattice=None),
        "more sites": wide(9, plan.lattice.coordinates).to_json(),
        "fewer coordinates": wide(4, 3).to_json(),
        "a finer grid": _replanned(prepared, lattice={**lattice, "clip_steps": 2 * lattice["clip_steps"]}),
        "a coarser grid": _replanned(prepared, lattice={**lattice, "clip_steps": 1}),
        "less noise": _replanned(prepared, noise_multiplier=0.9 * plan.noise_multiplier),
        "two steps": _replanned(prepared, steps_per_round=2),
    }
    for number, (name, text) in enumerate(hostile.items()):
        reply = _say(site, replace(prepared.request, run=f"hostile-{number}", plan=text))
        assert isinstance(reply, Refusal), name
        assert reply.code in {"plan", "malformed"}, name
    told = json.loads(prepared.request.config)
    told["privacy"]["kind"] = "subject"
    reply = _say(site, replace(prepared.request, run="other", config=json.dumps(told)))
    assert isinstance(reply, Refusal)
    assert reply.code == "plan"
    told["secagg"]["kind"] = "none"
    told["privacy"]["kind"] = "distributed"
    assert _say(site, replace(prepared.request, run="bare", config=json.dumps(told))) == Refusal("malformed")
    assert isinstance(agree(site, replace(prepared.request, run="again")).plan, PrivacyPlan)


def _tables(plan: PrivacyPlan) -> dict[str, tuple[str, float]]:
    return {table.purpose: (table.cohort, table.l2_sensitivity) for table in plan.counts}


def test_an_institution_that_did_not_allow_it_refuses_before_it_reserves(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *SHARED)
    site = prepared.sites[0]
    allowed = site.policy_path.read_text()
    site.policy_path.write_text(allowed.replace("allow_distributed_noise: true", "allow_distributed_noise: false"))
    with pytest.raises(Refused, match="allow_distributed_noise is false"):
        agree(site, replace(prepared.request, run="another"))
    task = Task(prepared.folder.name, 1, "training", first_weights(prepared.config))
    assert _say(site, task) == Refusal("distributed-noise")
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        assert {entry.kind for entry in ledger.entries()} == {"header", "reserve"}


def test_a_model_too_large_for_32_bits_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"privacy: 32 bits are too few for the sum of 4 sites' .* coordinates"):
        prepare_toy(tmp_path, *SHARED, "privacy.epsilon=1e-4", "privacy.delta=1e-4", "model.width=128")


def test_what_a_site_keeps_of_its_own_stays_where_it_was(tmp_path: Path) -> None:
    """A site may scale by its own noised statistics: they carry full noise and are charged."""
    prepared, _, state = run_toy(tmp_path, *SHARED, "data.normalisation=site", "rounds=1", REPEATABLE)
    assert prepared.plan is not None
    assert [charge.event.mechanism for charge in prepared.plan.charges() if charge.cohort == "train"] == [
        "discrete_gaussian",
        "discrete_gaussian",
    ]
    model = build_model(prepared.config, prepared.config.data_schema, seed=0)  # type: ignore[arg-type]
    load(model, state.weights)
