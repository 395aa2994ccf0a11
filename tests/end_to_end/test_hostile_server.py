"""An operator who does not keep to what was agreed, over the real stack: each site refuses, and says a fixed code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from common.deployment.supervise import running
from common.journal import Event
from common.refusals import CODES
from server.deployment.control import run_status, start_run
from server.deployment.programs import gate, superexec, superlink, wait_until_up
from server.deployment.runs import Begun
from tests.deployed import Deployment, approve, prepared, processes_of, set_policy
from tests.hostile_runs import RunConfig, planned, wait_until_online, with_plan
from tests.toy_federation import write_toy_sites

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    root = tmp_path_factory.mktemp("hostile")
    with prepared(root / "real", write_toy_sites(root / "sites")) as deployment:
        for name in deployment.names:
            deployment.join(name)
        yield deployment
    assert processes_of(deployment) == []


@pytest.fixture(scope="module")
def honest_app(made: Deployment) -> Iterator[Deployment]:
    """The real server, whose operator changes what it is told to run."""
    with running((superlink(made.place), superexec(made.place), gate(made.place))):
        wait_until_up(made.place)
        wait_until_online(made)
        yield made


def outcome(made: Deployment, begun: Begun, run_config: RunConfig) -> Event:
    """What the real server wrote down about a run that it could not begin."""
    started = start_run(made.place, run_config, begun.folder.path / "state")
    stopped: Callable[[], tuple[Event, ...]] = lambda: begun.folder.journal.events("stopped")  # noqa: E731
    made.wait_for(lambda: bool(stopped()), why=f"run {begun.folder.name} stops", patience=400)
    made.wait_for(lambda: run_status(made.place, started.number).is_over, why="its process ends")
    return stopped()[-1]


def refusals(made: Deployment, name: str) -> list[dict[str, str]]:
    """What a site wrote into its own log about refusals."""
    path = made.state(name) / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["event"] == "refused"]


def with_config(config: RunConfig, section: str, **changes: object) -> RunConfig:
    body = json.loads(config["config"])
    body[section] = {**body[section], **changes}
    return config | {"config": json.dumps(body)}


def with_other_classes(config: RunConfig) -> RunConfig:
    body = json.loads(config["config"])
    body["data_schema"]["tasks"]["sick"]["classes"] = ["well", "ill"]
    return config | {"config": json.dumps(body)}


ASKED: dict[str, tuple[tuple[str, ...], Callable[[RunConfig], RunConfig], str]] = {
    "weaker noise than the plan's epsilon needs": (
        (),
        lambda config: with_plan(config, noise_multiplier=json.loads(config["plan"])["noise_multiplier"] / 2),
        "plan",
    ),
    "a plan and a configuration that differ": ((), lambda config: with_config(config, "privacy", epsilon=80.0), "plan"),
    "other classes than the data have": ((), with_other_classes, "schema"),
    "a cohort of two": (("secagg.k_min=2",), lambda config: config, "cohort"),
    "more steps than the policy allows": (("rounds=9",), lambda config: config, "steps"),
    "no secure aggregation": (("secagg=none",), lambda config: config, "no-secagg"),
    "no privacy": (("privacy=none",), lambda config: config, "no-privacy"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_was_never_allowed_is_refused_at_every_site(honest_app: Deployment, case: str) -> None:
    overrides, tamper, code = ASKED[case]
    for name in honest_app.names:
        set_policy(honest_app, name, most_steps=8, k_min=3)
    before = {name: len(refusals(honest_app, name)) for name in honest_app.names}
    begun = planned(honest_app, *overrides)
    event = outcome(honest_app, begun, tamper(begun.run_config))
    assert event.facts["error"] == "RunRefused"
    assert event.facts["why"].startswith("4 of the sites refused")
    assert code in event.facts["why"]
    for name in honest_app.names:
        logged = refusals(honest_app, name)[before[name] :]
        assert [entry["code"] for entry in logged] == [code]
        assert len(logged[0]["reason"]) > len(code), "the site's own log says more than the code"


def test_a_bundle_that_nobody_approved_is_refused_at_every_site(honest_app: Deployment) -> None:
    manifest = honest_app.place.bundle_folder / "pyproject.toml"
    approved = manifest.read_text()
    manifest.write_text(approved.replace("as every institution has installed it", "and a little more"))
    try:
        begun = planned(honest_app)
        event = outcome(honest_app, begun, begun.run_config)
    finally:
        manifest.write_text(approved)
    assert "bundle" in event.facts["why"]
    assert event.facts["error"] == "RunRefused"
    for name in honest_app.names:
        assert refusals(honest_app, name)[-1]["code"] == "bundle"
        assert not (honest_app.state(name) / "runs" / begun.folder.name).exists(), "no run was reserved"


def test_a_stranger_on_the_servers_roster_is_in_no_sum(honest_app: Deployment) -> None:
    made, stranger = honest_app, "site-4"
    folder = write_toy_sites(made.root / "more", sites=5)[-1]
    machine = made.machine(stranger)
    machine.mkdir(parents=True)
    folder.rename(machine / "data")
    papers = ("--invitation", str(made.place.invitation_path), "--lifetime-epsilon", "100", "--lifetime-delta", "1e-3")
    made.command("site", "init", "state", "--data", "data", *papers, where=machine)
    made.command("server", "enrol", "consortium", str(machine / "state" / "enrolment.json"))
    approve(made, stranger)  # the four others have not: they know nothing of it
    made.join(stranger)
    try:
        wait_until_online(made)
        begun = planned(made)
        event = outcome(made, begun, begun.run_config)
    finally:
        made.stop(stranger)
        made.command("server", "enrol", "consortium", "--remove", stranger)
    assert event.facts["error"] == "RoundAborted"
    for name in made.names:
        assert refusals(made, name)[-1]["code"] in CODES
        left = [json.loads(line) for line in (made.state(name) / "log.jsonl").read_text().splitlines()]
        mine = {entry["stage"] for entry in left if entry["event"] == "left" and entry["run"] == begun.folder.name}
        assert mine == {"Task"}, "an advert left, and nothing that could be summed"
