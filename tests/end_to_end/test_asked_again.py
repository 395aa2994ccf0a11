"""A site whose app dies is asked once more, and gives the answer that it has given or was about to give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Error, Message

from client.enrolment import open_ledger
from client.policy import read_policy
from common.messages import CheckRequest, MaskRequest, RevealRequest, ShareRequest, Task
from common.wire import from_records
from server.app import GridLink, settings_of
from server.loop import run_federation
from server.state import ServerState
from simulations.engine import InProcessGrid
from simulations.run import Prepared, _run_config
from tests.federation_run import REPEATABLE, prepare_toy, same_weights

OVERRIDES = ("data.normalisation=none", "audit.attributes=[]", "rounds=1", REPEATABLE)
VICTIM, NODE = "site-1", 2
STAGES = (Task, ShareRequest, MaskRequest, CheckRequest, RevealRequest)


class _Dying(InProcessGrid):
    """A grid on which one site's app dies on the first requests of some stages; Flower says that it did."""

    deaths: dict[type, int]
    known = True

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Flower gives no number to a message for a node that it does not know."""
        messages = list(messages)
        forgotten = [not self.known and message.metadata.dst_node_id == NODE for message in messages]
        names = super().push_messages(messages)
        return ["" if gone else name for name, gone in zip(names, forgotten, strict=True)]

    def _answer(self, message: Message) -> Message:
        stage = type(from_records(message.content))
        is_hit = message.metadata.dst_node_id == NODE and message.metadata.group_id == "training-1"
        if is_hit and self.deaths.get(stage, 0):
            self.deaths[stage] -= 1
            super()._answer(message)  # the answer is on the site's disk; it never leaves
            return Message(Error(8, "failed"), reply_to=message)
        return super()._answer(message)


def run_dying(place: Path, deaths: dict[type, int]) -> tuple[Prepared, ServerState, _Dying]:
    prepared = prepare_toy(place, *OVERRIDES)
    grid = _Dying(prepared.sites)
    grid.deaths = dict(deaths)
    settings = settings_of(_run_config(prepared), prepared.folder.path)
    return prepared, run_federation(GridLink(grid, timeout_seconds=60), settings), grid


def test_a_site_whose_app_dies_once_at_every_stage_stays_in_the_sum_and_is_charged_once(tmp_path: Path) -> None:
    _, calm, _ = run_dying(tmp_path / "calm", {})
    prepared, state, grid = run_dying(tmp_path / "dying", dict.fromkeys(STAGES, 1))
    assert grid.deaths == dict.fromkeys(STAGES, 0)
    assert prepared.folder.journal.events("round")[0].facts["lost"] == {}
    assert same_weights(state, calm)
    site = next(site for site in prepared.sites if site.name == VICTIM)
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        facts = [entry.facts() for entry in ledger.entries() if entry.kind == "release"]
    assert [fact["round"] for fact in facts if fact["purpose"] == "training"] == [1]


@pytest.mark.parametrize(("stage", "word"), [(Task, "Advert: unreachable"), (MaskRequest, "Masked: unreachable")])
def test_a_site_whose_app_dies_twice_at_a_stage_is_lost_for_the_round(tmp_path: Path, stage: type, word: str) -> None:
    prepared, _, _ = run_dying(tmp_path, {stage: 2})
    facts = prepared.folder.journal.events("round")[0].facts
    assert facts["lost"] == {VICTIM: word}
    assert facts["sites"] == ["site-0", "site-2", "site-3"]


def test_nobody_waits_for_a_node_that_flower_does_not_know(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *OVERRIDES)
    grid = _Dying(prepared.sites)
    grid.deaths, grid.known = {}, False
    request = Task(prepared.folder.name, 1, "training", {}, {})
    found = dict(
        GridLink(grid, timeout_seconds=3600).ask({1: request, NODE: request}, group="x", largest_bytes=1 << 20)
    )
    assert set(found) == {1, NODE}
    assert getattr(found[NODE], "reason", "") == "unreachable"
