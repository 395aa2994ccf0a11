"""What the server does with replies that are late, repeated, unreadable, too large or of another kind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.app.message import Array

from common.messages import Advert, Checked, Masked, Reply, Revealed, Shares
from common.wire import from_records, to_records
from server.app import GridLink, settings_of
from server.loop import run_federation
from server.state import ServerState
from simulations.engine import InProcessGrid
from simulations.run import Prepared, _run_config
from tests.federation_run import REPEATABLE, prepare_toy, same_weights

OVERRIDES = ("data.normalisation=none", "audit.attributes=[]", "rounds=1", REPEATABLE)
TWISTED = 2  # the node whose replies are changed: site-1
Change = Callable[[RecordDict], RecordDict]


class _Twisting(InProcessGrid):
    """A grid on which one kind of reply of one site arrives changed, twice, or after the server stopped waiting."""

    kind: type[Reply] = Masked
    change: Change | None = None
    repeats = False
    silent = False
    counts = False  # walking through all objects of a process takes a while
    before = 0
    most_alive = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for message in super().pull_messages(message_ids):
            if message.metadata.src_node_id == TWISTED and isinstance(from_records(message.content), self.kind):
                if self.silent:
                    continue
                if self.change is not None:
                    message.content = self.change(message.content)
            replies += [message, message] if self.repeats else [message]
        if self.counts:
            self.most_alive = max(self.most_alive, alive() - self.before)
        return replies


def alive() -> int:
    """Replies with vectors that are in memory now, in the whole process."""
    return sum(type(thing) is Masked for thing in gc.get_objects())


def run_twisted(place: Path, timeout_seconds: float = 60, **traits: object) -> tuple[Prepared, ServerState, _Twisting]:
    prepared = prepare_toy(place, *OVERRIDES)
    grid = _Twisting(prepared.sites)
    for name, value in traits.items():
        setattr(grid, name, value)
    if grid.counts:
        gc.collect()
        grid.before = alive()  # what a test before this one may have left
    settings = settings_of(_run_config(prepared), prepared.folder.path)
    return prepared, run_federation(GridLink(grid, timeout_seconds=timeout_seconds), settings), grid


def raw(body: bytes) -> RecordDict:
    return RecordDict({"fedmosaic": ArrayRecord({"message": Array(np.frombuffer(body, dtype=np.uint8))})})


def larger(records: RecordDict) -> RecordDict:
    reply = from_records(records)
    assert isinstance(reply, Masked)
    return to_records(Masked({**reply.vectors, "stowaway": np.zeros(100_000, dtype=np.uint32)}))


def shorter(records: RecordDict) -> RecordDict:
    reply = from_records(records)
    assert isinstance(reply, Masked)
    return to_records(Masked({name: vector[:-1] for name, vector in reply.vectors.items()}))


def without_a_box(records: RecordDict) -> RecordDict:
    reply = from_records(records)
    assert isinstance(reply, Shares)
    return to_records(Shares(reply.peers[1:], reply.ciphertexts, reply.signature))


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        (Masked, larger, "Masked: oversized"),
        (Masked, shorter, "Masked: not as advertised"),
        (Masked, lambda _: raw(b"{}" * 40), "Masked: malformed"),
        (Masked, lambda _: RecordDict(), "Masked: malformed"),
        (Masked, lambda _: to_records(Advert(b"again")), "Masked: another kind of reply"),
        (Shares, without_a_box, "Shares: shares"),
        (Advert, lambda _: to_records(Advert(b"\x01junk")), "Advert: advert"),
        (Advert, lambda _: to_records(Advert(b"")), "Advert: version"),
    ],
)
def test_a_reply_that_is_not_what_it_should_be_is_a_drop_out_with_a_reason(
    tmp_path: Path, kind: type[Reply], change: Change, word: str
) -> None:
    prepared, _, _ = run_twisted(tmp_path, kind=kind, change=change)
    facts = prepared.folder.journal.events("round")[0].facts
    assert facts["lost"] == {"site-1": word}
    assert facts["sites"] == ["site-0", "site-2", "site-3"]


@pytest.mark.parametrize("kind", [Advert, Shares, Masked, Checked, Revealed])
def test_a_site_that_falls_silent_at_any_stage_does_not_end_the_run(tmp_path: Path, kind: type[Reply]) -> None:
    prepared, state, _ = run_twisted(tmp_path, timeout_seconds=0.5, silent=True, kind=kind)
    facts = prepared.folder.journal.events("round")[0].facts
    assert facts["lost"] == {"site-1": f"{kind.__name__}: silent"}
    in_the_sum = kind in {Checked, Revealed}  # its vectors had arrived; the others' shares take its mask off
    assert facts["sites"] == ["site-0", *(["site-1"] if in_the_sum else []), "site-2", "site-3"]
    assert state.round == 1


def test_a_reply_that_arrives_twice_counts_once(tmp_path: Path) -> None:
    _, once, _ = run_twisted(tmp_path / "once")
    prepared, twice, _ = run_twisted(tmp_path / "twice", repeats=True)
    assert prepared.folder.journal.events("round")[0].facts["lost"] == {}
    assert same_weights(once, twice)


@pytest.mark.slow
def test_the_server_holds_one_vector_at_a_time(tmp_path: Path) -> None:
    """At each fetch the reply before it may still be in the loop's hand; two others never are."""
    _, _, grid = run_twisted(tmp_path, counts=True)
    assert grid.most_alive == 1
