"""The door, held by a hostile server: one charge is one answer, and what is refused depends on no record."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.enrolment import open_ledger
from client.gate import _at, _contribute, answer
from client.policy import read_policy
from client.site import Site
from client.stages import Stages, write_durably
from common.blocks import blocks_of, flatten
from common.messages import Advert, Arrays, Refusal, Reply, Request, Settle, Settled, Task, pack
from common.models.model import build_model
from common.releases import schema_of
from simulations.run import Prepared
from tests.federation_run import prepare_toy

ABSURD = ("objective.learning_rate=1e38", "objective.weight_decay=1.0", "privacy.steps_per_round=3")
NONE = ("data.normalisation=none", "audit.attributes=[]")


def _weights(prepared: Prepared) -> Arrays:
    model = build_model(prepared.config, schema_of(prepared.config), seed=0)
    return flatten(model, blocks_of(model))


def _say(site: Site, request: Request) -> Reply:
    return answer(site, lambda: request)


def _code(reply: Reply) -> str:
    return reply.code if isinstance(reply, Refusal) else type(reply).__name__


def _releases(site: Site) -> int:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        return sum(entry.kind == "release" for entry in ledger.entries())


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare_toy(tmp_path, *NONE)


def _task(prepared: Prepared, **changes: object) -> Task:
    task = Task(prepared.folder.name, 1, "training", _weights(prepared), {})
    return replace(task, **changes)  # type: ignore[arg-type]


def test_the_same_task_gets_the_same_bytes_for_one_charge(prepared: Prepared) -> None:
    site = prepared.sites[0]
    first = _say(site, _task(prepared))
    assert isinstance(first, Advert)
    assert pack(_say(site, _task(prepared))) == pack(first)
    assert _releases(site) == 1


def test_other_weights_for_an_answered_round_are_refused(prepared: Prepared) -> None:
    site = prepared.sites[0]
    _say(site, _task(prepared))
    other = {name: vector + 1 for name, vector in _weights(prepared).items()}
    assert _code(_say(site, _task(prepared, weights=other))) == "replay"
    assert _releases(site) == 1


def test_a_task_that_fails_after_the_charge_fails_for_ever_and_draws_no_second_noise(tmp_path: Path) -> None:
    # Three steps at an absurd rate: the weights become infinite and the update is no number.
    prepared = prepare_toy(tmp_path, *NONE, *ABSURD)
    site = prepared.sites[0]
    replies = [_code(_say(site, _task(prepared))) for _ in range(3)]
    assert replies == ["failed"] * 3
    assert len(site.logged("failed")) == 1
    other = {name: vector + 1 for name, vector in _weights(prepared).items()}
    assert _code(_say(site, _task(prepared, weights=other))) == "replay"
    assert _releases(site) == 1


def test_interrupted_work_is_done_again_with_the_noise_that_it_began_with(prepared: Prepared) -> None:
    site, task = prepared.sites[0], _task(prepared)
    agreement, stages = _at(site, task)
    stages.folder.mkdir(parents=True)
    updates = []
    for _ in range(2):  # twice without an entry in between: as if the process had died before its answer was kept
        assert isinstance(_contribute(site, agreement, stages, task), Advert)
        updates.append(stages.kept("update"))
    assert updates[0] == updates[1]
    assert _releases(site) == 1


def test_an_answer_that_was_lost_after_its_charge_is_not_drawn_again(prepared: Prepared) -> None:
    site = prepared.sites[0]
    _say(site, _task(prepared))
    (site.run_folder(prepared.folder.name) / "000001-training" / "Task.entry").unlink()
    assert [_code(_say(site, _task(prepared))) for _ in range(2)] == ["replay", "replay"]
    assert _releases(site) == 1


def _manifest_with(site: Site, cell: str) -> str:
    """Write a cell into the first row's first column of numbers; give what the file was before."""
    path = site.folder / "manifest.csv"
    before = path.read_text()
    header, row, *rest = before.splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True)) | {"crp": cell}
    path.write_text("\n".join([header, ",".join(cells.values()), *rest]) + "\n")
    return before


def test_own_statistics_that_fail_once_fail_for_ever_and_say_nothing_more(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, "data.normalisation=site", "audit.attributes=[]")
    site = prepared.sites[0]
    before = _manifest_with(site, "broken")
    assert [_code(_say(site, _task(prepared))) for _ in range(2)] == ["failed"] * 2
    (site.folder / "manifest.csv").write_text(before)  # repaired: a server that polls must not learn when
    replies = [_code(_say(site, _task(prepared, round=number))) for number in (1, 2, 2, 3)]
    assert replies == ["failed"] * 4
    assert _releases(site) == 1 + 3  # the statistics, drawn once, and a step of each round


def test_how_many_subjects_a_site_has_does_not_leave_as_a_code(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, "data.normalisation=site", "audit.attributes=[]")
    site = prepared.sites[0]
    manifest = site.folder / "manifest.csv"
    header, first = manifest.read_text().splitlines()[:2]
    named = [first.replace("site-0-0000", f"new-{number}") for number in range(1000)]  # 1000 * delta is 1
    manifest.write_text("\n".join([header, *named]) + "\n")
    assert _code(_say(site, _task(prepared))) == "failed"


def test_own_statistics_that_were_interrupted_are_drawn_again_with_the_same_noise(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, "data.normalisation=site", "audit.attributes=[]")
    site, task = prepared.sites[0], _task(prepared)
    agreement, stages = _at(site, task)
    stages.folder.mkdir(parents=True)
    kept = []
    for number in range(2):
        own = Stages(site.run_folder(task.run))
        key, is_new = own.begin("own-statistics", b"")  # as if a process had died right after
        assert is_new == (number == 0)
        assert isinstance(_contribute(site, agreement, stages, task), Advert)
        entry = own.folder / "own-statistics.entry"
        kept.append((key, entry.read_bytes()))
        assert not (own.folder / "own-statistics.secret").exists()
        write_durably(own.folder / "own-statistics.secret", hashlib.sha256(b"").digest() + key)
        entry.unlink()
    assert kept[0] == kept[1]
    assert _releases(site) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"round": 0}, "plan"),
        ({"round": 4}, "plan"),
        ({"purpose": "audit", "round": 0}, "plan"),
        ({"purpose": "normalisation", "round": 0, "weights": {}}, "plan"),
        ({"purpose": "gossip"}, "malformed"),
        ({"weights": {}}, "malformed"),
        ({"normalisation": {"sums": np.zeros(3, np.int64)}}, "malformed"),
        ({"run": "another"}, "not-enrolled"),
        ({"run": "../../x"}, "malformed"),
    ],
)
def test_a_task_that_was_never_agreed_to_costs_nothing(
    prepared: Prepared, changes: dict[str, object], code: str
) -> None:
    site = prepared.sites[0]
    assert _code(_say(site, _task(prepared, **changes))) == code
    assert _releases(site) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_weights_that_would_show_rounding_errors_are_refused(prepared: Prepared, value: float) -> None:
    site, weights = prepared.sites[0], _weights(prepared)
    weights["fusion"][0] = value
    assert _code(_say(site, _task(prepared, weights=weights))) == "weights"
    assert _releases(site) == 0


def test_a_settled_run_answers_nothing(prepared: Prepared) -> None:
    site = prepared.sites[0]
    assert isinstance(_say(site, Settle(prepared.folder.name)), Settled)
    assert _code(_say(site, _task(prepared))) == "settled"


def test_a_policy_that_was_tightened_holds_for_agreed_runs_too(prepared: Prepared) -> None:
    site = prepared.sites[0]
    text = site.policy_path.read_text()
    site.policy_path.write_text(text.replace("min_noise_multiplier: 0.0", "min_noise_multiplier: 100.0"))
    assert _code(_say(site, _task(prepared))) == "noise"
    assert _releases(site) == 0


def test_the_agreed_run_and_nothing_else_decides_whether_keys_are_post_quantum(tmp_path: Path) -> None:
    for value, version in (("false", b"\x01"), ("true", b"\x02")):
        prepared = prepare_toy(tmp_path / value, *NONE, f"secagg.post_quantum={value}")
        reply = _say(prepared.sites[0], _task(prepared))
        assert isinstance(reply, Advert)
        assert reply.advert[:1] == version


def test_a_refusal_is_a_fixed_code_even_where_the_log_cannot_be_written(prepared: Prepared) -> None:
    site = prepared.sites[0]
    log = site.state / "log.jsonl"
    log.unlink(missing_ok=True)
    log.mkdir()  # as little to be written as on a full disk
    assert answer(site, unreadable) == Refusal("malformed")
    assert answer(site, lambda: 1 / 0) == Refusal("failed")  # type: ignore[arg-type,return-value]


def unreadable() -> Request:
    raise ValueError("no request")
