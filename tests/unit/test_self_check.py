"""Before the first charge: a broken step costs nothing, and a sound one has a certificate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client import self_check, trial
from client.enrolment import open_ledger
from client.gate import answer
from client.policy import read_policy
from client.self_check import CERTIFICATE
from client.site import Site
from common.blocks import blocks_of, flatten
from common.messages import Refusal, Request, Task
from common.models.model import build_model
from common.privacy.step_audit import StepCertificate
from common.releases import schema_of
from simulations.run import Prepared
from tests.federation_run import prepare_toy
from tests.planted_bugs import BROKEN_SET_UPS, BUGS, SHARED, UNDER_SAMPLING, WITH_PARTS, Bug

NONE = ("data.normalisation=none", "audit.attributes=[]")
SAMPLED = (*NONE, "privacy.sampling_rate=0.3", "privacy.steps_per_round=2")
DISTRIBUTED = (*NONE, "privacy=distributed", "privacy.delta=1e-3", "privacy.declared_subjects=40")

PARTS = "[{kind:task},{kind:anchor,query:labs,target:vitals,bank:5},{kind:masked_tokens,modality:ward}]"
WITH_EVERY_PART = (
    *(*SAMPLED, f"objective.parts={PARTS}"),
    *("model.frozen=[encoder/vitals]", "objective.modality_dropout=0.2", "objective.augment.gain=0.1"),
)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_toy(tmp_path_factory.mktemp("sampled"), *SAMPLED)


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_toy(tmp_path_factory.mktemp("distributed"), *DISTRIBUTED)


@pytest.fixture(scope="module")
def with_parts(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_toy(tmp_path_factory.mktemp("parts"), *WITH_EVERY_PART)


@pytest.fixture(autouse=True)
def _each_test_tries_anew() -> Iterator[None]:
    self_check._tried.cache_clear()
    yield
    self_check._tried.cache_clear()


def _say(site: Site, request: Request) -> str:
    reply = answer(site, lambda: request)
    return reply.code if isinstance(reply, Refusal) else type(reply).__name__


def _entries(site: Site) -> list[tuple[str, str]]:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        return [(entry.kind, entry.run) for entry in ledger.entries()]


def _task(prepared: Prepared) -> Task:
    model = build_model(prepared.config, schema_of(prepared.config), seed=0)
    return Task(prepared.folder.name, 1, "training", flatten(model, blocks_of(model)), {})


def _certificate(prepared: Prepared) -> Path:
    return prepared.sites[0].run_folder(prepared.folder.name) / CERTIFICATE


def _costs_nothing(prepared: Prepared, run: str) -> str:
    """Ask for a run, and for a round of one that was agreed to before the software broke; give the last reason."""
    site, before = prepared.sites[0], _entries(prepared.sites[0])
    assert _say(site, replace(prepared.request, run=run)) == "self-check"
    assert not site.run_folder(run).exists()
    _certificate(prepared).unlink(missing_ok=True)  # as if other software had written it
    assert _say(site, _task(prepared)) == "self-check"
    assert _entries(site) == before
    return str(site.logged("refused")[-1]["reason"])


@pytest.mark.parametrize("name", [*BUGS, *UNDER_SAMPLING, *BROKEN_SET_UPS])
def test_a_broken_step_is_refused_before_any_charge(
    sampled: Prepared, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    {**BUGS, **UNDER_SAMPLING, **BROKEN_SET_UPS}[name].plant(monkeypatch)
    assert _costs_nothing(sampled, "broken").startswith("Broken: ")


@pytest.mark.parametrize("name", WITH_PARTS)
def test_a_broken_part_of_an_objective_is_refused_before_any_charge(
    with_parts: Prepared, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    WITH_PARTS[name].plant(monkeypatch)
    assert _costs_nothing(with_parts, "broken").startswith("Broken: ")


@pytest.mark.parametrize("name", SHARED)
def test_a_broken_share_of_a_step_is_refused_before_any_charge(
    distributed: Prepared, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SHARED[name].plant(monkeypatch)
    assert _costs_nothing(distributed, "broken").startswith("Broken: ")


def test_a_trial_that_cannot_be_made_is_a_no(sampled: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    Bug(((trial, "check_saved", fails),)).plant(monkeypatch)
    assert _costs_nothing(sampled, "broken") == "RuntimeError: out of memory"


def test_saved_blocks_that_come_back_changed_are_a_no(sampled: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    Bug(((trial, "load", lambda *_: None),)).plant(monkeypatch)
    assert "saved and loaded" in _costs_nothing(sampled, "broken")


@pytest.mark.parametrize("which", ["sampled", "distributed", "with_parts"])
def test_a_sound_step_is_certified_and_charged(which: str, request: pytest.FixtureRequest) -> None:
    prepared: Prepared = request.getfixturevalue(which)
    assert prepared.plan is not None
    assert _say(prepared.sites[0], _task(prepared)) == "Advert"
    found = StepCertificate.from_json(_certificate(prepared).read_bytes())
    assert (found.run, found.plan_hash) == (prepared.folder.name, prepared.finished.plan_hash)
    assert found.claimed_mu == pytest.approx(1 / prepared.plan.noise_multiplier)
    assert found.refuting_mu <= found.lower_mu <= found.largest_mu
    assert 0.4 * found.claimed_mu < found.lower_mu < 1.3 * found.claimed_mu
    assert 0.8 < found.noise_ratio < 1.2
    assert found.gradient_error < 1e-5
    assert json.loads(found.to_json())["does_not_see"]


def test_other_software_tries_again_and_the_same_does_not(sampled: Prepared) -> None:
    path = _certificate(sampled)
    found = StepCertificate.from_json(path.read_bytes())
    path.write_text(replace(found, software={**found.software, "torch": "0"}, when="long ago").to_json())
    assert _say(sampled.sites[0], replace(_task(sampled), round=2)) == "Advert"
    again = StepCertificate.from_json(path.read_bytes())
    assert again.software == found.software
    assert again.when != "long ago"
    path.write_text(replace(again, when="today").to_json())
    assert _say(sampled.sites[0], replace(_task(sampled), round=3)) == "Advert"
    assert StepCertificate.from_json(path.read_bytes()).when == "today"
