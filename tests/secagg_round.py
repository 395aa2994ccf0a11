"""One secure sum from first to last: a plain driver over the real functions of sites and coordinator.

Between the stages a site's state goes through its byte form, as it does on disk. A site that refuses has dropped out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from client import mask
from common.secagg.identity import Identity, new_identity
from common.secagg.roster import Roster, sign_roster
from server.accumulate import Accumulator
from server.unmask import (
    RoundView,
    Routing,
    Survivors,
    close_masking,
    collect_agreement,
    open_round,
    route_shares,
    unmask,
    wrong_shares,
)

STAGES = ("advertise", "share", "mask", "check", "reveal")
SESSION = mask.Session(run="run-1", round=3, purpose="training", model_hash=b"m" * 32, plan_hash=b"p" * 32)
POST_QUANTUM = replace(SESSION, post_quantum=True)
Message = tuple[Any, ...]
Vectors = dict[str, np.ndarray]
Sums = dict[str, tuple[np.ndarray, tuple[str, ...]]]


@dataclass(frozen=True)
class Consortium:
    """Institutions with their keys, and the roster that names them."""

    identities: Mapping[str, Identity]
    roster: Roster

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.identities))


@dataclass
class Trace:
    """All that happened in a round, for tests to look at."""

    refusals: dict[str, tuple[str, str]] = field(default_factory=dict)
    states: dict[str, mask.SiteRound] = field(default_factory=dict)
    adverts: dict[str, bytes] = field(default_factory=dict)
    masked: dict[str, Vectors] = field(default_factory=dict)
    reveals: dict[str, bytes] = field(default_factory=dict)
    blamed: dict[str, str] = field(default_factory=dict)
    view: RoundView | None = None
    routing: Routing | None = None
    survivors: Survivors | None = None
    sums: Sums = field(default_factory=dict)


@dataclass(frozen=True)
class Script:
    """What a round is run with: who falls silent at which stage, and what is changed on the way.

    `to_site` and `to_server` get (stage, site, message) and return the message that arrives.
    """

    k_min: int = 3
    drop: Mapping[str, str] = field(default_factory=dict)
    to_site: Callable[[str, str, Message], Message] = lambda _stage, _site, message: message
    to_server: Callable[[str, str, Message], Message] = lambda _stage, _site, message: message
    session: mask.Session = SESSION
    server_knows_roster: bool = True
    site_k_min: Mapping[str, int] = field(default_factory=dict)


def consortium_of(names: Sequence[str] | int) -> Consortium:
    """Make a consortium of named institutions, or of as many as asked for."""
    if isinstance(names, int):
        names = [f"site-{number:03d}" for number in range(names)]
    identities = {name: new_identity() for name in names}
    keys = {name: identity.public_key for name, identity in identities.items()}
    return Consortium(identities, sign_roster(keys, new_identity()))


def plain_sum(vectors: Mapping[str, Vectors], block: str, sites: Sequence[str]) -> np.ndarray:
    """The naive twin: the sum of one block over some sites, in Python's integers."""
    columns = zip(*(vectors[site][block].tolist() for site in sites), strict=True)
    return np.array([sum(column) % 2**32 for column in columns], dtype=np.uint32)


def secure_sum(
    consortium: Consortium, vectors: Mapping[str, Vectors], script: Script | None = None, trace: Trace | None = None
) -> Trace:
    """Run one round; RoundAborted passes through, with what happened until then in `trace`."""
    run = _Run(consortium, vectors, script or Script(), trace or Trace())
    trace = run.trace
    adverts = run.ask("advertise", consortium.names, lambda site: (run.vectors[site],))
    trace.adverts = {site: reply[0] for site, reply in adverts.items()}
    roster = consortium.roster if run.script.server_knows_roster else None
    view = trace.view = open_round(trace.adverts, roster, run.script.k_min)
    shared = run.ask("share", view.sites, lambda _site: (list(view.adverts), view.threshold))
    boxes, signatures = ({site: reply[part] for site, reply in shared.items()} for part in (0, 1))
    routing = trace.routing = route_shares(view, boxes, signatures)
    accumulator = Accumulator(routing)
    messages = {site: (dict(routing.inbox[site]), dict(routing.signatures)) for site in routing.senders}
    for site, reply in run.ask("mask", routing.senders, lambda site: messages[site]).items():
        trace.masked[site] = reply[0]
        accumulator.add(site, reply[0])
    survivors = trace.survivors = close_masking(accumulator)
    checked = run.ask("check", survivors.sites, lambda _site: (list(survivors.sites), list(survivors.blocks)))
    agreed = collect_agreement(survivors, {site: reply[0] for site, reply in checked.items()})
    revealed = run.ask("reveal", sorted(checked), lambda _site: (dict(agreed),))
    trace.reveals = {site: reply[0] for site, reply in revealed.items()}
    trace.blamed = wrong_shares(survivors, trace.reveals)
    trace.sums = unmask(survivors, accumulator, trace.reveals)
    return trace


@dataclass(frozen=True)
class _Run:
    consortium: Consortium
    vectors: Mapping[str, Vectors]
    script: Script
    trace: Trace

    def ask(self, stage: str, sites: Sequence[str], message: Callable[[str], Message]) -> dict[str, Message]:
        """Send a message to each site and collect what comes back; a refusal is a drop-out."""
        replies = {}
        for site in sites:
            if self.script.drop.get(site) == stage:
                continue
            try:
                reply = self._answer(stage, site, self.script.to_site(stage, site, message(site)))
                replies[site] = self.script.to_server(stage, site, reply)
            except mask.ProtocolError as error:
                self.trace.refusals[site] = (stage, error.code)
        return replies

    def _answer(self, stage: str, site: str, message: Message) -> Message:
        if stage == "advertise":
            return self._advertise(site, *message)
        state = mask.SiteRound.from_bytes(self.trace.states[site].to_bytes())
        k_min = self.script.site_k_min.get(site, self.script.k_min)
        if stage == "reveal":
            return (mask.reveal(state, *message),)
        reply: Message
        if stage == "share":
            adverts, threshold = message
            state, *rest = mask.share(state, adverts, threshold, self.consortium.roster, k_min)
            reply = tuple(rest)
        elif stage == "mask":
            boxes, signatures = message
            state, vectors = mask.mask(state, boxes, signatures, self.vectors[site])
            reply = (vectors,)
        else:
            state, signature = mask.check(state, *message)
            reply = (signature,)
        self.trace.states[site] = state
        return reply

    def _advertise(self, site: str, vectors: Vectors) -> tuple[bytes]:
        state, advert = mask.advertise(
            self.script.session,
            self.consortium.identities[site],
            {block: vector.size for block, vector in vectors.items()},
            institution=site,
            k_min=self.script.site_k_min.get(site, self.script.k_min),
        )
        self.trace.states[site] = state
        return (advert,)
