"""The door at enrolment: what a run may never ask for, before anything is reserved; ledgers lost and begun."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import read_policy
from client.site import Site
from common.messages import Enrol, Enrolled, Refusal, Reply, Request, Task
from simulations.run import Prepared
from tests.federation_run import prepare_toy

NONE = ("data.normalisation=none", "audit.attributes=[]")


def _say(site: Site, request: Request) -> Reply:
    return answer(site, lambda: request)


def _code(reply: Reply) -> str:
    return reply.code if isinstance(reply, Refusal) else type(reply).__name__


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare_toy(tmp_path, *NONE)


def _enrol(prepared: Prepared, run: str, **changes: object) -> Enrol:
    config = json.loads(prepared.config.model_dump_json())
    for key, value in changes.items():
        section, name = key.split("__", 1)
        config[section][name] = value
    return replace(prepared.request, run=run, config=json.dumps(config))


def test_a_site_that_requires_post_quantum_refuses_a_run_without_before_a_reservation(prepared: Prepared) -> None:
    site = prepared.sites[0]
    text = site.policy_path.read_text()
    assert "require_post_quantum: false" in text
    site.policy_path.write_text(text.replace("require_post_quantum: false", "require_post_quantum: true"))
    assert _code(_say(site, Task(prepared.folder.name, 1, "training"))) == "post-quantum"
    assert _code(_say(site, _enrol(prepared, "down"))) == "post-quantum"
    assert _code(_say(site, _enrol(prepared, "bare", secagg__kind="none"))) == "post-quantum"
    assert _code(_say(site, _enrol(prepared, "both", secagg__post_quantum=True))) == "Enrolled"
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        assert {entry.run for entry in ledger.entries()} == {"", prepared.folder.name, "both"}


def test_another_schema_than_the_folders_is_refused_before_a_reservation(prepared: Prepared) -> None:
    site = prepared.sites[0]
    tasks = json.loads(prepared.config.model_dump_json())["data_schema"]["tasks"]
    tasks["sick"] |= {"kind": "multiclass", "classes": ["0", "1", "2"]}
    assert _code(_say(site, _enrol(prepared, "other", data_schema__tasks=tasks))) == "schema"
    assert _code(_say(site, _enrol(prepared, "larger", secagg__k_min=9))) == "cohort"
    assert _code(_say(site, _enrol(prepared, "../../x"))) == "malformed"
    assert _code(_say(site, _enrol(prepared, "misspelt", federation__personal=["heads"]))) == "malformed"
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        assert {entry.run for entry in ledger.entries()} == {"", prepared.folder.name}


def test_a_server_cannot_permute_the_columns_or_levels_of_a_folder(prepared: Prepared) -> None:
    site = prepared.sites[0]
    modalities = json.loads(prepared.config.model_dump_json())["data_schema"]["modalities"]
    modalities["ward"]["categorical"]["triage"].reverse()
    assert _code(_say(site, _enrol(prepared, "levels", data_schema__modalities=modalities))) == "schema"
    modalities["ward"]["categorical"]["triage"].reverse()
    modalities["labs"]["columns"].reverse()
    assert _code(_say(site, _enrol(prepared, "columns", data_schema__modalities=modalities))) == "schema"


def test_a_plan_that_says_other_noise_than_it_charges_is_refused(prepared: Prepared) -> None:
    site = prepared.sites[0]
    plan = json.loads(prepared.request.plan)
    weaker = replace(prepared.request, run="weaker", plan=json.dumps({**plan, "noise_multiplier": 0.1}))
    assert _code(_say(site, weaker)) == "plan"
    longer = replace(prepared.request, run="longer", plan=json.dumps({**plan, "rounds": 2}))
    assert _code(_say(site, longer)) == "plan"


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: os.truncate(path, 0)], ids=["deleted", "truncated"])
def test_a_lost_ledger_is_not_begun_anew(prepared: Prepared, lose: Callable[[Path], None]) -> None:
    site = prepared.sites[0]
    assert isinstance(_say(site, prepared.request), Enrolled)
    for path in site.state.glob("ledger.sqlite*"):
        lose(path)
    assert [_code(_say(site, replace(prepared.request, run="again"))) for _ in range(2)] == ["ledger"] * 2


def test_a_site_that_was_killed_while_its_ledger_was_made_makes_it_afterwards(prepared: Prepared) -> None:
    site = prepared.sites[0]
    for path in site.state.glob("ledger.*"):
        path.unlink()

    def dies_at(number: int) -> bool:
        child = os.fork()
        if child == 0:
            seen = iter(range(number))

            def watch(event: str, arguments: tuple[object, ...]) -> None:
                touched = event in ("open", "sqlite3.connect", "os.mkdir", "os.link")
                touched = touched and str(site.state) in str(arguments)
                if touched and next(seen, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(watch)
            os._exit(_code(_say(site, replace(prepared.request, run="again"))) != "Enrolled")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    kills = next(number for number in range(100) if not dies_at(number))
    assert isinstance(_say(site, replace(prepared.request, run="again")), Enrolled)
    assert kills > 5


def test_two_first_requests_at_once_are_both_agreed_to(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *NONE)
    site = prepared.sites[0]
    for path in site.state.glob("ledger.*"):
        path.unlink()
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            os._exit(_code(_say(site, replace(prepared.request, run=f"run-{number}"))) != "Enrolled")
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        ledger.verify()
        assert sum(entry.kind == "reserve" for entry in ledger.entries()) == 3
