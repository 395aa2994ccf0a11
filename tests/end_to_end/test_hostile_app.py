"""An operator who runs another program under the server's name, in the bundle that was approved; the real stack."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.deployment.supervise import running
from common.messages import Advert, Enrol, Enrolled, Refusal, Reply, Request, Task, pack, unpack
from common.models.model import first_weights
from server.deployment.control import start_run
from server.deployment.programs import gate, superexec, superlink, wait_until_up
from tests.deployed import Deployment, prepared, processes_of
from tests.hostile_operator.server.app import ANSWERS, SCRIPT
from tests.hostile_runs import planned, wait_until_online, with_plan
from tests.toy_federation import write_toy_sites

pytestmark = pytest.mark.slow
HOSTILE = Path(__file__).resolve().parents[1] / "hostile_operator"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    root = tmp_path_factory.mktemp("hostile")
    with prepared(root / "real", write_toy_sites(root / "sites")) as deployment:
        for name in deployment.names:
            deployment.join(name)
        yield deployment
    assert processes_of(deployment) == []


@pytest.fixture(scope="module")
def hostile_app(made: Deployment) -> Iterator[Deployment]:
    """Another program under the server's name, in the bundle that was approved."""
    real = superexec(made.place)
    where = {
        "PYTHONPATH": str(HOSTILE),
        SCRIPT: str(made.root / "script.json"),
        ANSWERS: str(made.root / "answers.json"),
    }
    hostile = replace(real, environment={**real.environment, **where})
    with running((superlink(made.place), hostile, gate(made.place))):
        wait_until_up(made.place)
        wait_until_online(made)
        yield made


def answers(made: Deployment, requests: Sequence[Request]) -> list[list[Reply]]:
    """What all sites answer to each request, in turn."""
    found = made.root / "answers.json"
    found.unlink(missing_ok=True)
    (made.root / "script.json").write_text(json.dumps([base64.b64encode(pack(one)).decode() for one in requests]))
    start_run(made.place, {"run": "hostile", "config": "{}", "plan": "null"}, made.root / "flower")
    made.wait_for(found.exists, why="the hostile app is done", patience=400)
    said = json.loads(found.read_text())
    assert all(len(each) == len(made.names) for each in said), said
    return [[_read(body) for body in each.values()] for each in said]


def _read(body: str) -> Reply:
    assert not body.startswith("error"), body
    return unpack(base64.b64decode(body))  # type: ignore[return-value]  # a site sends replies


def test_an_approved_bundle_gives_a_hostile_server_no_more(hostile_app: Deployment) -> None:
    begun = planned(hostile_app, "data.normalisation=none")
    run, asked = begun.folder.name, begun.run_config
    weights = first_weights(begun.config)
    other = {name: value + 1 for name, value in weights.items()}
    agreed = Enrol(run, asked["config"], asked["plan"])
    task = Task(run, 1, "training", weights)
    never, outside, enrolled, first, again, changed, beyond = answers(
        hostile_app,
        [
            replace(task, run="never-agreed"),
            replace(agreed, run="../../somewhere"),
            agreed,
            task,
            task,
            replace(task, weights=other),
            replace(task, round=99),
        ],
    )
    assert never == [Refusal("not-enrolled")] * 4
    assert outside == [Refusal("malformed")] * 4
    assert all(isinstance(reply, Enrolled) for reply in enrolled)
    assert all(isinstance(reply, Advert) for reply in first)
    assert again == first, "the same request, the same bytes"
    assert changed == [Refusal("replay")] * 4
    assert all(isinstance(reply, Refusal) for reply in beyond)


def test_a_run_that_weakens_an_agreed_one_is_refused(hostile_app: Deployment) -> None:
    begun = planned(hostile_app, "data.normalisation=none")
    asked = begun.run_config
    weaker = with_plan(asked, noise_multiplier=json.loads(asked["plan"])["noise_multiplier"] / 2)
    longer = planned(hostile_app, "data.normalisation=none", "rounds=3").run_config
    agreed = Enrol(begun.folder.name, asked["config"], asked["plan"])
    first, second, third = answers(
        hostile_app,
        [
            agreed,
            replace(agreed, plan=weaker["plan"]),
            replace(agreed, config=longer["config"], plan=longer["plan"]),
        ],
    )
    assert all(isinstance(reply, Enrolled) for reply in first)
    assert second == [Refusal("plan")] * 4
    assert all(isinstance(reply, Refusal) for reply in third)
