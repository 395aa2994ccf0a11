"""A crowd of sites in this process, for sums that are too large to run as institutions with folders and data.

Each answers by the functions that the gate of a real site calls, on a state that goes through its byte form as it does
on disk; what a gate adds is missing: policy, ledger, training, and the durable entry of each stage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from client import mask, neighbours
from client.neighbour_round import NeighbourRound
from client.neighbours import by_place, dealt_by
from common.large_messages import (
    ChooseRequest,
    Chosen,
    LargeCheckRequest,
    LargeMasked,
    LargeMaskRequest,
    LargeRevealRequest,
    LargeShareRequest,
    LargeShares,
)
from common.messages import Advert, Checked, Refusal, Reply, Request, Revealed, Task, pack
from common.secagg.assembly import Call
from common.secagg.graph import STANDARD, Promise
from common.secagg.identity import Identity, new_identity
from common.secagg.roster import Roster, sign_roster
from server.link import Failure

STAGES = (Task, ChooseRequest, LargeShareRequest, LargeMaskRequest, LargeCheckRequest, LargeRevealRequest)


@dataclass
class CrowdSite:
    """One site: its key, its vectors, its state between the stages."""

    name: str
    identity: Identity
    vectors: Mapping[str, np.ndarray]
    state: bytes = field(default=b"", repr=False)


@dataclass
class Crowd:
    """All sites of a roster, as a link; `silent` names by node the request that a site no longer answers.

    `sent` and `received` count bytes by node, in the messages' own byte form; `seconds` is the processor's time at the
    sites, `packing_seconds` that of counting those bytes.
    """

    sites: list[CrowdSite]
    roster: Roster
    k_min: int = 3
    promise: Promise = STANDARD
    silent: Mapping[int, type] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    packing_seconds: float = 0.0

    def nodes(self) -> tuple[int, ...]:
        """The sites' numbers."""
        return tuple(range(len(self.sites)))

    def ask(
        self, requests: Mapping[int, Request], *, group: str, largest_bytes: int
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Answer for one site after the other; `group` and `largest_bytes` matter to real links only."""
        del group, largest_bytes
        for node, request in requests.items():
            if self.silent.get(node) is type(request):
                yield node, Failure("silent")
                continue
            began = time.process_time()
            received = len(pack(request))
            started = time.process_time()
            reply = self.answer(self.sites[node], request)
            ended = time.process_time()
            self.seconds += ended - started
            self.received[node] = self.received.get(node, 0) + received
            self.sent[node] = self.sent.get(node, 0) + len(pack(reply))
            self.packing_seconds += started - began + time.process_time() - ended
            yield node, reply

    def answer(self, site: CrowdSite, request: Request) -> Reply:
        """What a site says to a request; a breach of the protocol is a refusal, and the site has dropped out."""
        try:
            if isinstance(request, Task):
                return self._advertise(site, request)
            if isinstance(request, ChooseRequest):
                return self._choose(site, request)
            return self._go_on(site, request)
        except mask.ProtocolError as error:
            return Refusal(error.code)

    def _advertise(self, site: CrowdSite, task: Task) -> Reply:
        lengths = {name: int(vector.size) for name, vector in site.vectors.items()}
        session = mask.Session(task.run, task.round, task.purpose, task.digest(), bytes(32))
        state, advert = mask.advertise(session, site.identity, lengths, institution=site.name, k_min=self.k_min)
        site.state = state.to_bytes()
        return Advert(advert)

    def _choose(self, site: CrowdSite, request: ChooseRequest) -> Reply:
        call = Call(request.present, request.degree, request.threshold)
        advertised = mask.SiteRound.from_bytes(site.state)
        state, places = neighbours.choose(advertised, call, self.roster, self.k_min, self.promise)
        site.state = state.to_bytes()
        return Chosen(list(places))

    def _go_on(self, site: CrowdSite, request: Request) -> Reply:
        state = NeighbourRound.from_bytes(site.state)
        reply: Reply = Refusal("malformed")
        match request:
            case LargeShareRequest():
                state, boxes = neighbours.share(state, request.adverts, self.roster)
                reply = LargeShares(list(boxes))
            case LargeMaskRequest():
                dealt = dealt_by(request.dealers, request.adverts, request.boxes)
                state, vectors, own_tags = neighbours.mask(state, request.senders, dealt, site.vectors, self.roster)
                reply = LargeMasked(vectors, list(own_tags))
            case LargeCheckRequest():
                tags = by_place(request.dealers, request.tags)
                state, signature = neighbours.check(state, request.survivors, tags, self.roster)
                reply = Checked(signature)
            case LargeRevealRequest():
                signatures = by_place(request.signers, request.signatures)
                reply = Revealed(neighbours.reveal(state, signatures, self.roster))
        site.state = state.to_bytes()
        return reply


def crowd_of(vectors: Sequence[Mapping[str, np.ndarray]], **traits: object) -> Crowd:
    """Make a crowd with fresh keys and a roster, one site for each set of vectors."""
    sites = [CrowdSite(f"site-{number:06d}", new_identity(), own) for number, own in enumerate(vectors)]
    roster = sign_roster({site.name: site.identity.public_key for site in sites}, new_identity())
    return Crowd(sites, roster, **traits)  # type: ignore[arg-type]
