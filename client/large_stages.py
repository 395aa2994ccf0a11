"""The stages of a large sum on a site's durable state: what each keeps for the next, and what it gives to the gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safetensors.numpy import load

from client import neighbours
from client.neighbour_round import NeighbourRound
from client.neighbours import by_place, dealt_by
from client.policy import Refused
from client.site import Site
from client.site_round import SiteRound
from client.stages import Stages
from common.large_messages import (
    ChooseRequest,
    LargeCheckRequest,
    LargeMaskRequest,
    LargeRevealRequest,
    LargeShareRequest,
    LargeStageRequest,
)
from common.secagg.assembly import Call
from common.secagg.roster import LARGEST_COMPLETE, Roster

# By stage, the secrets that nobody needs once its answer is on disk.
LARGE_SPENT: dict[str, tuple[str, ...]] = {
    "ChooseRequest": ("advertised",),
    "LargeShareRequest": ("chosen",),
    "LargeMaskRequest": ("shared", "update"),
    "LargeCheckRequest": ("masked",),
    "LargeRevealRequest": ("checked",),
}


def answer_large(site: Site, stages: Stages, request: LargeStageRequest, smallest: int) -> tuple[Any, ...]:
    """Compute the fields of the reply to one stage; `smallest` is the smallest cohort that the site asks for today.

    Raises:
        Refused: the roster is so small that the stronger protocol is for it (complete), or a stage is missing (order).
        ProtocolError: the server or a peer did not keep the protocol.
    """
    roster = Roster.from_bytes(site.roster_path.read_bytes())
    if len(roster.entries) <= LARGEST_COMPLETE:
        raise Refused("complete", f"{len(roster.entries)} sites are few enough to mask all with all")
    if isinstance(request, ChooseRequest):
        return _choose(stages, request, roster, smallest)
    return _STAGES[type(request)](stages, request, roster)


def _choose(stages: Stages, request: ChooseRequest, roster: Roster, smallest: int) -> tuple[list[int]]:
    call = Call(request.present, request.degree, request.threshold)
    state, places = neighbours.choose(SiteRound.from_bytes(stages.kept("advertised")), call, roster, smallest)
    stages.keep("chosen", state.to_bytes())
    return (list(places),)


def _share(stages: Stages, request: LargeShareRequest, roster: Roster) -> tuple[list[bytes]]:
    state, boxes = neighbours.share(NeighbourRound.from_bytes(stages.kept("chosen")), request.adverts, roster)
    stages.keep("shared", state.to_bytes())
    return (list(boxes),)


def _mask(stages: Stages, request: LargeMaskRequest, roster: Roster) -> tuple[dict[str, Any], list[bytes]]:
    state = NeighbourRound.from_bytes(stages.kept("shared"))
    dealt = dealt_by(request.dealers, request.adverts, request.boxes)
    state, vectors, tags = neighbours.mask(state, request.senders, dealt, load(stages.kept("update")), roster)
    stages.keep("masked", state.to_bytes())
    return vectors, list(tags)


def _check(stages: Stages, request: LargeCheckRequest, roster: Roster) -> tuple[bytes]:
    tags = by_place(request.dealers, request.tags)
    state = NeighbourRound.from_bytes(stages.kept("masked"))
    state, signature = neighbours.check(state, request.survivors, tags, roster)
    stages.keep("checked", state.to_bytes())
    return (signature,)


def _reveal(stages: Stages, request: LargeRevealRequest, roster: Roster) -> tuple[bytes]:
    signatures = by_place(request.signers, request.signatures)
    return (neighbours.reveal(NeighbourRound.from_bytes(stages.kept("checked")), signatures, roster),)


_STAGES: dict[type, Callable[..., tuple[Any, ...]]] = {
    LargeShareRequest: _share,
    LargeMaskRequest: _mask,
    LargeCheckRequest: _check,
    LargeRevealRequest: _reveal,
}
