"""A whole run, watched at every site's door: whatever leaves for a round stands in the ledger already."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from flwr.app import Message

from client.enrolment import open_ledger
from client.policy import read_policy
from client.site import Site
from common.large_messages import LargeReply
from common.messages import Enrolled, Plain, Refusal, Reply, Settled, StageRequest
from common.wire import from_records
from server.app import GridLink, settings_of
from server.loop import run_federation
from simulations.engine import InProcessGrid
from simulations.run import _run_config
from tests.federation_run import prepare_toy

PURPOSES = {"normalisation", "training", "evaluation", "audit"}
FREE = {Enrolled, Settled, Refusal}  # test_gate_difference.py shows that no record changes them


def released(site: Site) -> set[tuple[object, object, object]]:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        facts = [entry.facts() for entry in ledger.entries() if entry.kind == "release"]
    return {(fact["stage"], fact["round"], fact["purpose"]) for fact in facts}


class _Watching(InProcessGrid):
    """A grid that looks into the site's ledger each time something leaves it."""

    seen: dict[type, set[str]]

    def _answer(self, message: Message) -> Message:
        site, request = self._sites[message.metadata.dst_node_id], from_records(message.content)
        answered = super()._answer(message)
        reply = from_records(answered.content)
        if isinstance(request, StageRequest):
            assert type(reply) not in FREE
            assert ("task", request.round, request.purpose) in released(site)
            self.seen.setdefault(type(reply), set()).add(request.purpose)
        else:
            assert type(reply) in FREE
        return answered


def watch(place: Path, *overrides: str) -> dict[type, set[str]]:
    prepared = prepare_toy(place, "rounds=1", "data.normalisation=federated", *overrides)
    grid = _Watching(prepared.sites)
    grid.seen = {}
    run_federation(GridLink(grid, timeout_seconds=60), settings_of(_run_config(prepared), prepared.folder.path))
    return grid.seen


def test_every_kind_of_reply_for_every_purpose_leaves_after_its_charge(tmp_path: Path) -> None:
    seen = watch(tmp_path)
    # A large sum has stages of its own behind the same Task; without that they are refused, as the other test shows.
    assert seen.keys() == set(get_args(Reply)) - set(get_args(LargeReply)) - FREE - {Plain}
    assert all(purposes == PURPOSES for purposes in seen.values())


def test_what_leaves_without_secure_aggregation_leaves_after_its_charge_too(tmp_path: Path) -> None:
    assert watch(tmp_path, "secagg=none") == {Plain: PURPOSES}
