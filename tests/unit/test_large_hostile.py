"""A large sum with a server, or a neighbour, that lies: refused by whoever is lied to, and nothing is learnt."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from client.neighbour_round import NeighbourRound
from common.large_messages import (
    ChooseRequest,
    LargeCheckRequest,
    LargeMasked,
    LargeMaskRequest,
    LargeRevealRequest,
    LargeShareRequest,
)
from common.messages import Reply, Request, Task
from server.unmask import RoundAborted
from tests.large_round import NUM_SITES, THRESHOLD, LyingCrowd, large_sum, lying_crowd, plain_sums, told, without

VICTIM, OTHER = 4, 9
ALL = frozenset(range(NUM_SITES))


def refusal(crowd: LyingCrowd) -> tuple[str, str]:
    """What the victim said in a round that went on without it; nobody else refused."""
    assert large_sum(crowd)
    assert set(crowd.refusals) == {VICTIM}
    return crowd.refusals[VICTIM]


def chosen_by(crowd: LyingCrowd, node: int) -> list[int]:
    return NeighbourRound.from_bytes(crowd.sites[node].state).chosen  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"present": without(VICTIM)}, "own-advert"),
        ({"present": without(*range(10, 20))}, "cohort"),
        ({"present": lambda body: body[:-1]}, "members"),
        ({"present": lambda body: body[:-1] + bytes([body[-1] | 1])}, "members"),
        ({"degree": 3, "threshold": 2}, "graph"),
        ({"degree": NUM_SITES}, "graph"),
        ({"threshold": THRESHOLD - 3}, "graph"),
        ({"threshold": 16}, "graph"),
        ({"threshold": 0}, "graph"),
    ],
)
def test_a_graph_that_does_not_keep_the_promise_is_refused(changes: dict[str, Any], code: str) -> None:
    assert refusal(lying_crowd(twist=told(ChooseRequest, VICTIM, **changes))) == ("ChooseRequest", code)


def test_a_site_that_asks_for_more_sites_than_can_be_promised_is_not_in_the_sum() -> None:
    crowd = lying_crowd(k_min=15)  # of 27 honest sites at least, more than half: 14
    with pytest.raises(RoundAborted, match="choices"):
        large_sum(crowd)
    assert set(crowd.refusals.values()) == {("ChooseRequest", "cohort")}


def test_neighbours_that_the_server_chose_are_refused() -> None:
    crowd = lying_crowd()

    def twist(node: int, request: Request) -> Request:
        if node != VICTIM or not isinstance(request, LargeShareRequest):
            return request
        stranger = next(place for place in ALL - {VICTIM} if place not in chosen_by(crowd, VICTIM))
        raw = crowd.replies[stranger, "Task"].advert  # type: ignore[union-attr]
        return replace(request, adverts=[raw, *request.adverts[1:]])

    crowd.twist = twist
    assert refusal(crowd) == ("LargeShareRequest", "roster")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"adverts": lambda adverts: adverts[1:]}, "own-choice"),
        ({"adverts": lambda adverts: [*adverts, adverts[0]]}, "own-choice"),
        ({"adverts": lambda adverts: [adverts[1], adverts[0], *adverts[2:]]}, "roster"),
        ({"adverts": lambda adverts: [adverts[0][:-1] + bytes([adverts[0][-1] ^ 1]), *adverts[1:]]}, "signature"),
    ],
)
def test_every_neighbour_must_be_the_one_at_its_place(changes: dict[str, Any], code: str) -> None:
    assert refusal(lying_crowd(twist=told(LargeShareRequest, VICTIM, **changes))) == ("LargeShareRequest", code)


def test_a_neighbour_from_another_round_is_refused() -> None:
    earlier = lying_crowd()
    large_sum(earlier)
    crowd = LyingCrowd(earlier.sites, earlier.roster, promise=earlier.promise)
    old = {place: earlier.replies[place, "Task"].advert for place in ALL}  # type: ignore[union-attr]

    def twist(node: int, request: Request) -> Request:
        if isinstance(request, LargeShareRequest) and node == VICTIM:
            return replace(request, adverts=[old[place] for place in chosen_by(crowd, VICTIM)])
        if isinstance(request, Task):
            return replace(request, round=request.round + 1)
        return request

    crowd.twist = twist
    assert refusal(crowd) == ("LargeShareRequest", "session")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"senders": without(VICTIM)}, "senders"),
        ({"senders": without(*range(10, 21))}, "senders"),
        ({"senders": lambda _: b""}, "members"),
        ({"adverts": lambda adverts: [adverts[1], adverts[0], *adverts[2:]]}, "roster"),
        ({"boxes": lambda boxes: [boxes[1], boxes[0], *boxes[2:]]}, "ciphertext"),
        ({"boxes": lambda boxes: [b"", *boxes[1:]]}, "ciphertext"),
        ({"boxes": lambda boxes: [boxes[0][:-1] + bytes([boxes[0][-1] ^ 1]), *boxes[1:]]}, "ciphertext"),
    ],
)
def test_shares_and_their_dealers_must_be_what_they_were(changes: dict[str, Any], code: str) -> None:
    assert refusal(lying_crowd(twist=told(LargeMaskRequest, VICTIM, **changes))) == ("LargeMaskRequest", code)


def test_a_site_that_did_not_choose_another_cannot_be_made_its_dealer() -> None:
    crowd = lying_crowd()

    def twist(node: int, request: Request) -> Request:
        if node != VICTIM or not isinstance(request, LargeMaskRequest):
            return request
        stranger = next(place for place in ALL - {VICTIM} if place not in request.dealers)
        raw = crowd.replies[stranger, "Task"].advert  # type: ignore[union-attr]
        box = crowd.replies[stranger, "LargeShareRequest"].boxes[0]  # type: ignore[union-attr]
        said = sorted([*zip(request.dealers, request.adverts, request.boxes, strict=True), (stranger, raw, box)])
        dealers, adverts, boxes = map(list, zip(*said, strict=True))
        return replace(request, dealers=dealers, adverts=adverts, boxes=boxes)

    crowd.twist = twist
    assert refusal(crowd) == ("LargeMaskRequest", "ciphertext")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"survivors": without(VICTIM)}, "survivors"),
        ({"survivors": without(*range(10, 20))}, "survivors"),
        ({"survivors": lambda body: body + b"\0"}, "members"),
        ({"tags": lambda tags: [tags[1], tags[0], *tags[2:]]}, "tag"),
        ({"tags": lambda tags: [bytes(32), *tags[1:]]}, "tag"),
        ({"dealers": lambda dealers: dealers[1:], "tags": lambda tags: tags[1:]}, "tag"),
    ],
)
def test_a_view_that_does_not_fit_what_a_site_knows_is_refused(changes: dict[str, Any], code: str) -> None:
    assert refusal(lying_crowd(twist=told(LargeCheckRequest, VICTIM, **changes))) == ("LargeCheckRequest", code)


def test_a_neighbour_with_which_a_site_did_not_mask_does_not_help_to_take_its_masks_off() -> None:
    # The server tells the victim that a neighbour did not share, and the neighbour that the victim masked with it.
    crowd = lying_crowd()
    lied_about: list[int] = []

    def twist(node: int, request: Request) -> Request:
        if node == VICTIM and isinstance(request, LargeMaskRequest):
            state = NeighbourRound.from_bytes(crowd.sites[VICTIM].state)
            lied_about.append(next(place for place in state.chosen if place not in request.dealers))
            return replace(request, senders=without(*lied_about)(request.senders))
        return request

    def twist_reply(node: int, reply: Reply) -> Reply:
        if node == VICTIM and isinstance(reply, LargeMasked):
            at = NeighbourRound.from_bytes(crowd.sites[VICTIM].state).chosen.index(lied_about[0])
            return replace(reply, tags=[*reply.tags[:at], bytes(32), *reply.tags[at:]])
        return reply

    crowd.twist, crowd.twist_reply = twist, twist_reply
    large_sum(crowd)
    # The victim signs no view in which that neighbour shared; the neighbour misses the tag.
    assert crowd.refusals == {
        lied_about[0]: ("LargeCheckRequest", "tag"),
        VICTIM: ("LargeCheckRequest", "survivors"),
    }
    assert VICTIM not in crowd.requests[VICTIM, "LargeMaskRequest"].dealers  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "kind", [ChooseRequest, LargeShareRequest, LargeMaskRequest, LargeCheckRequest, LargeRevealRequest]
)
def test_no_changed_field_of_any_request_gives_a_wrong_sum(kind: type) -> None:
    for item in fields(kind):
        if item.name in {"run", "round", "purpose"}:  # where the gate looks the state up; there it is another round's
            continue
        crowd = lying_crowd(twist=told(kind, VICTIM, **{item.name: _spoilt}))
        try:
            sums = large_sum(crowd)
        except RoundAborted:
            assert kind is ChooseRequest, item.name  # what the victim then deals opens for none of its neighbours
            continue
        for name, (total, sites) in sums.items():
            nodes = [node for node, site in enumerate(crowd.sites) if site.name in sites]
            assert (total == plain_sums(crowd, nodes)[name]).all()
            assert VICTIM not in nodes or VICTIM in crowd.refusals or kind is LargeRevealRequest, item.name


def _spoilt(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, int):
        return value + 1
    if isinstance(value, bytes):
        return bytes([value[0] ^ 0x20, *value[1:]])
    return [_spoilt(value[0]), *value[1:]]
