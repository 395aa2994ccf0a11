"""A large sum whose server tells sites different things: sums stay masked, and nobody gives both secrets of anyone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client import neighbours
from client.neighbour_round import NeighbourRound
from common.large_messages import ChooseRequest, LargeCheckRequest, LargeMaskRequest, LargeRevealRequest
from common.messages import Request, Revealed
from common.secagg.assembly import write_members
from common.secagg.errors import ProtocolError
from common.secagg.shamir import SECRET_BYTES
from common.secagg.transcript import HASH_BYTES
from server.unmask import RoundAborted
from tests.large_round import NUM_SITES, THRESHOLD, LyingCrowd, large_sum, lying_crowd, without

VICTIM, OTHER = 4, 9
ALL = frozenset(range(NUM_SITES))


def test_two_calls_have_nothing_in_common() -> None:
    def twist(node: int, request: Request) -> Request:
        if node % 2 and isinstance(request, ChooseRequest):
            return replace(request, present=without(0)(request.present))
        return request

    crowd = lying_crowd(twist=twist)
    with pytest.raises(RoundAborted):
        large_sum(crowd)
    # What one half dealt does not open for the other half: no site of either goes on.
    assert set(crowd.refusals.values()) >= {("LargeMaskRequest", "ciphertext")}
    assert not any(isinstance(reply, Revealed) for reply in crowd.replies.values())


def test_two_views_of_who_survived_leave_both_sums_masked() -> None:
    def twist(node: int, request: Request) -> Request:
        if node % 2 and isinstance(request, LargeCheckRequest):
            return replace(request, survivors=without(0)(request.survivors))
        return request

    crowd = lying_crowd(twist=twist)
    with pytest.raises(RoundAborted, match="agreement"):
        large_sum(crowd)
    # Everybody signed one of the two, and no site finds enough of its own neighbours behind what it signed itself.
    checked = [node for node, stage in crowd.replies if stage == "LargeCheckRequest"]
    assert len(checked) == NUM_SITES
    assert sum(_opens(crowd, node) for node in checked) < THRESHOLD


def _opens(crowd: LyingCrowd, node: int) -> bool:
    state = NeighbourRound.from_bytes(crowd.sites[node].state)
    try:
        neighbours.reveal(state, {place: _signature(crowd, place) for place in state.chosen}, crowd.roster)
    except ProtocolError:
        return False
    return True


def test_signatures_of_strangers_do_not_count() -> None:
    crowd = lying_crowd()
    large_sum(crowd)
    for place in (VICTIM, OTHER):
        request = crowd.requests[place, "LargeRevealRequest"]
        assert isinstance(request, LargeRevealRequest)
        state = NeighbourRound.from_bytes(crowd.sites[place].state)
        known = dict(zip(request.signers, request.signatures, strict=True))
        assert neighbours.reveal(state, known, crowd.roster)
        few = dict(list(known.items())[: THRESHOLD - 1])
        strangers = {other: _signature(crowd, other) for other in ALL - set(state.chosen)}
        with pytest.raises(ProtocolError, match="signed this view"):
            neighbours.reveal(state, {**strangers, **few}, crowd.roster)


def _signature(crowd: LyingCrowd, place: int) -> bytes:
    reply = crowd.replies.get((place, "LargeCheckRequest"))
    return getattr(reply, "signature", b"")


def test_of_nobody_are_both_secrets_revealed_and_only_once() -> None:
    dropped = {3: LargeMaskRequest, 17: LargeMaskRequest}
    crowd = lying_crowd(silent=dropped)
    large_sum(crowd)
    for node in ALL - set(dropped):
        state = NeighbourRound.from_bytes(crowd.sites[node].state)
        reply = crowd.replies[node, "LargeRevealRequest"]
        assert isinstance(reply, Revealed)
        kinds = [1 if dealer in dropped else 2 for dealer in state.dealers]  # the masking key, or the two seeds
        assert len(reply.shares) == HASH_BYTES + SECRET_BYTES * sum(kinds)
        assert state.held == ()
        with pytest.raises(ProtocolError, match="is checked"):  # another view of the same round
            neighbours.check(state, write_members(ALL, NUM_SITES), {}, crowd.roster)
