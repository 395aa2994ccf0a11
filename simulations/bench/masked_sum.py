"""One secure sum in this process, stage by stage: the real functions of sites and coordinator, with no wire between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from client import mask
from common.messages import Masked, pack, unpack
from common.privacy.noise import os_noise
from common.secagg.encoding import bits_for, decode_sum, encode_weighted
from common.secagg.identity import new_identity
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
)

BOUND, K_MIN = 8.0, 3
SESSION = mask.Session("20260301-101500-3fa2c1", 1, "training", bytes(32), bytes(32))
Shares = tuple[mask.SiteRound, dict[str, bytes], bytes]
Vectors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Opened:
    """After stage 0: the states of all sites, and who takes part."""

    roster: Roster
    states: Mapping[str, mask.SiteRound]
    view: RoundView

    def share(self, site: str) -> Shares:
        """Stage 1 of one site: check everybody's advert, deal shares, seal them, sign."""
        return mask.share(_from_disk(self.states[site]), self.view.adverts, self.view.threshold, self.roster, K_MIN)

    def route(self, shares: Mapping[str, Shares]) -> Dealt:
        """The coordinator's side of stage 1."""
        boxes = {site: boxes for site, (_, boxes, _) in shares.items()}
        signatures = {site: signature for site, (_, _, signature) in shares.items()}
        return Dealt(
            {site: state for site, (state, _, _) in shares.items()}, route_shares(self.view, boxes, signatures)
        )


@dataclass(frozen=True)
class Dealt:
    """After stage 1: the states of all sites, and what each of them gets from the others."""

    states: Mapping[str, mask.SiteRound]
    routing: Routing

    def mask(self, site: str, vectors: Vectors) -> tuple[mask.SiteRound, bytes]:
        """Stage 2 of one site: check and open what the others dealt, mask, and write the reply."""
        inbox, signatures = self.routing.inbox[site], self.routing.signatures
        state, masked = mask.mask(_from_disk(self.states[site]), inbox, signatures, vectors)
        return state, pack(Masked(vectors=masked))


@dataclass(frozen=True)
class Revealed:
    """After stage 4: what the survivors signed, those signatures shown to all, and what each of them revealed."""

    signatures: Mapping[str, bytes]
    agreed: Mapping[str, bytes]
    shares: Mapping[str, bytes]


def open_sum(num_sites: int, lengths: Mapping[str, int]) -> Opened:
    """Stage 0: sites with keys of their own, and their adverts."""
    identities = {f"site-{number:03d}": new_identity() for number in range(num_sites)}
    roster = sign_roster({name: identity.public_key for name, identity in identities.items()}, new_identity())
    states, adverts = {}, {}
    for name, identity in identities.items():
        states[name], adverts[name] = mask.advertise(SESSION, identity, lengths, institution=name, k_min=K_MIN)
    return Opened(roster, states, open_round(adverts, roster, K_MIN))


def deal(num_sites: int, lengths: Mapping[str, int]) -> Dealt:
    """Stages 0 and 1 of all sites."""
    opened = open_sum(num_sites, lengths)
    return opened.route({site: opened.share(site) for site in opened.view.sites})


def encode(vector: np.ndarray, num_sites: int) -> np.ndarray:
    """What the gate does with a block before stage 2: uniforms from the privacy noise's source, fixed point, weight."""
    draw = os_noise("bench", "bench", 1, "training").uniforms("rounding")
    return encode_weighted(vector, 1.0, bound=BOUND, bits=bits_for(num_sites), draw=draw)


def add(accumulator: Accumulator, site: str, body: bytes) -> None:
    """The coordinator's side of stage 2, for one arriving reply.

    Raises:
        ValueError: it was not added.
    """
    reply = unpack(body)
    if not isinstance(reply, Masked) or not accumulator.add(site, reply.vectors):
        raise ValueError(f"the vectors of {site} were not added")


def settle(survivors: Survivors, states: Mapping[str, mask.SiteRound]) -> Revealed:
    """Stages 3 and 4 of the survivors."""
    checked = {
        site: mask.check(_from_disk(states[site]), survivors.sites, survivors.blocks) for site in survivors.sites
    }
    signatures = {site: signature for site, (_, signature) in checked.items()}
    agreed = collect_agreement(survivors, signatures)
    shares = {site: mask.reveal(_from_disk(state), agreed) for site, (state, _) in checked.items()}
    return Revealed(signatures, agreed, shares)


def finish(accumulator: Accumulator, revealed: Revealed) -> tuple[Vectors, Vectors]:
    """The coordinator's side of stages 3 and 4: the sums as reals, and as integers modulo 2^32."""
    survivors = close_masking(accumulator)
    collect_agreement(survivors, revealed.signatures)
    totals = {name: total for name, (total, _) in unmask(survivors, accumulator, revealed.shares).items()}
    num_sites = len(survivors.routing.view.sites)
    bits = bits_for(num_sites)
    reals = {name: decode_sum(total, bound=BOUND, bits=bits, num_sites=num_sites) for name, total in totals.items()}
    return reals, totals


def _from_disk(state: mask.SiteRound) -> mask.SiteRound:
    """A site's state goes through its byte form between the stages, as it does in a run."""
    return mask.SiteRound.from_bytes(state.to_bytes())
