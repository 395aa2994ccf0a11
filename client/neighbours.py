"""A site's side of a large sum: it chooses its own neighbours, and masks with them instead of with everybody.

The stages are those of client/mask.py with one more, "choose", before shares are dealt. The server is trusted with
nothing but delivery. Why it is enough to look at one's own neighbours: docs/scale.md.
"""

from __future__ import annotations

import hashlib
import secrets as entropy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from client.boxes import open_box, seal_box
from client.neighbour_round import NeighbourRound, Peer
from client.site_round import Secrets, SiteRound
from common.secagg.assembly import VIEW, Assembly, Call, assemble, assembly_of, read_member, read_members
from common.secagg.edge import Edge
from common.secagg.errors import ProtocolError
from common.secagg.graph import STANDARD, Promise
from common.secagg.identity import Identity
from common.secagg.keys import PROTOCOL, agree
from common.secagg.layout import join
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.roster import Roster
from common.secagg.shamir import SECRET_BYTES, share_secret
from common.secagg.transcript import Advert, check_signature, sign_transcript

Value = TypeVar("Value")


def choose(
    state: SiteRound, call: Call, roster: Roster, k_min: int, promise: Promise = STANDARD
) -> tuple[NeighbourRound, tuple[int, ...]]:
    """Stage 1: check who is there, and choose this site's neighbours by its own coins, before it sees their adverts.

    `k_min` is the smallest cohort that the site asks for today.

    Raises:
        ProtocolError: this site is not among those that take part (own-advert), they are too few (cohort), the graph
            is too thin (graph), or the site now asks for a larger cohort than it advertised (k-min).
    """
    if state.stage != "advertised":
        raise ProtocolError("order", f"this round is {state.stage}, which is not advertised")
    own = state.own
    assembly = assemble(call, own, roster, promise)
    place = _place(assembly, own)
    others = [member for member in assembly.members if member != place]
    if len(others) != len(assembly.members) - 1:
        raise ProtocolError("own-advert", "this site is not among those that take part")
    if k_min > own.k_min:
        raise ProtocolError("k-min", f"the smallest cohort is now {k_min}, but {own.k_min} was advertised")
    if k_min > assembly.sure_of(promise):
        raise ProtocolError("cohort", f"a hostile server could split off fewer than {k_min} sites")
    chosen = tuple(sorted(entropy.SystemRandom().sample(others, call.degree)))
    return NeighbourRound("chosen", state.advert, call, state.secrets, chosen), chosen


def share(state: NeighbourRound, adverts: Sequence[bytes], roster: Roster) -> tuple[NeighbourRound, tuple[bytes, ...]]:
    """Stage 2: check the adverts of the chosen neighbours and deal shares of this site's secrets to them.

    `adverts` are in the order of `chosen`, and so are the sealed boxes that are returned.

    Raises:
        ProtocolError: an advert is missing (own-choice), or is not the one that belongs at its place.
    """
    own, assembly = _open(state, "chosen", roster)
    if len(adverts) != len(state.chosen):
        raise ProtocolError("own-choice", f"{len(adverts)} adverts for {len(state.chosen)} chosen neighbours")
    dealt = [
        share_secret(secret, threshold=state.call.threshold, num_shares=state.call.degree)
        for secret in (state.secrets.masking_key, *state.secrets.seeds)
    ]
    boxes, peers = [], []
    for place, raw, shares in zip(state.chosen, adverts, zip(*dealt, strict=True), strict=True):
        advert = read_member(raw, place, assembly)
        edge = Edge(assembly.transcript, own, advert)
        boxes.append(seal_box(state.secrets, edge, shares))
        peers.append(Peer(advert.signing_key, advert.masking_key, _tag(edge, b"".join(shares))))
    return replace(state, stage="shared", peers=tuple(peers)), tuple(boxes)


def mask(
    state: NeighbourRound,
    senders: bytes,
    dealt: Mapping[int, tuple[bytes, bytes]],
    vectors: Mapping[str, np.ndarray],
    roster: Roster,
) -> tuple[NeighbourRound, dict[str, np.ndarray], tuple[bytes, ...]]:
    """Stage 3: open the shares of those who chose this site, and mask with them and with the chosen who shared.

    `senders` is the bitmap of all sites that shared; `dealt` holds, by place, the advert and the box of each that chose
    this site. A box that opens proves that its dealer chose this site, on the same T1.

    Returns the new state, one uint32 vector per block, and for each chosen neighbour that shared, in order, the tag
    that proves that this site masked with it; without it no honest one helps to take this site's own masks off.

    Raises:
        ProtocolError: too few of the chosen shared, or wrong sites (senders); a box does not open (ciphertext) or holds
            other shares than committed to (share); an advert is wrong; a vector is not as advertised (vector).
    """
    own, assembly = _open(state, "shared", roster)
    place, shared = _place(assembly, own), frozenset(read_members(senders, len(roster.entries)))
    masked_with = [chosen for chosen in state.chosen if chosen in shared]
    if place not in shared or not shared <= set(assembly.members) or not set(dealt) <= shared - {place}:
        raise ProtocolError("senders", "those who shared are not sites of this round, with this one")
    if len(shared) < assembly.fewest or len(masked_with) < state.call.threshold:
        raise ProtocolError("senders", f"{len(shared)} sites shared, {len(masked_with)} of them chosen by this one")
    _check_vectors(assembly, vectors)
    adverts = {dealer: read_member(raw, dealer, assembly) for dealer, (raw, _) in sorted(dealt.items())}
    held, tags = _open_boxes(state, own, assembly, {dealer: (adverts[dealer], dealt[dealer][1]) for dealer in adverts})
    peers = dict(zip(state.chosen, state.peers, strict=True))
    keys = {advert.institution: advert.masking_key for advert in adverts.values()}
    keys |= {assembly.name(chosen): peers[chosen].masking_key for chosen in masked_with}
    masked = _masked(state.secrets, own, assembly.transcript, keys, vectors)
    after = replace(
        state,
        stage="masked",
        secrets=Secrets(signing_key=state.secrets.signing_key),
        peers=tuple(replace(peer, tag=b"") for peer in state.peers),
        senders=senders,
        smallest=max([own.k_min, *(advert.k_min for advert in adverts.values())]),
        dealers=tuple(adverts),
        dealer_tags=tags,
        held=held,
    )
    return after, masked, tuple(peers[chosen].tag for chosen in masked_with)


def check(
    state: NeighbourRound, survivors: bytes, tags: Mapping[int, bytes], roster: Roster
) -> tuple[NeighbourRound, bytes]:
    """Stage 4: check who survived and that the surviving dealers masked with this site, and sign the one view of it.

    Raises:
        ProtocolError: the survivors are not enough of those who shared, this site among them (survivors, cohort); a
            surviving dealer did not mask with this site (tag).
    """
    own, assembly = _open(state, "masked", roster)
    size = len(roster.entries)
    alive = frozenset(read_members(survivors, size))
    if _place(assembly, own) not in alive or not alive <= set(read_members(state.senders, size)):
        raise ProtocolError("survivors", "the survivors are not sites of those who shared, with this one")
    if len(alive) < assembly.fewest or sum(chosen in alive for chosen in state.chosen) < state.call.threshold:
        raise ProtocolError("survivors", f"{len(alive)} sites survived, or too few of those that this one chose")
    if len(alive) < state.smallest:
        raise ProtocolError("cohort", f"{len(alive)} sites survived, fewer than {state.smallest}")
    for dealer, expected in zip(state.dealers, state.dealer_tags, strict=True):
        if dealer in alive and not entropy.compare_digest(tags.get(dealer, b""), expected):
            raise ProtocolError("tag", "a surviving site that chose this one did not mask with it")
    digest = assembly.final_transcript(state.senders, survivors)
    # Of a survivor the seeds of its own masks, of all others the masking key: never both, and all else is gone.
    shares = (
        held[SECRET_BYTES:] if dealer in alive else held[:SECRET_BYTES]
        for dealer, held in zip(state.dealers, state.held, strict=True)
    )
    answer = digest + b"".join(shares)
    signature = sign_transcript(Identity(state.secrets.signing_key), VIEW, digest)
    checked = replace(state, stage="checked", secrets=Secrets(), dealer_tags=(), held=())
    return replace(checked, survivors=survivors, answer=answer), signature


def reveal(state: NeighbourRound, signatures: Mapping[int, bytes], roster: Roster) -> bytes:
    """Stage 5: give the shares that unmask the sum, if `threshold` of the chosen neighbours signed the very same view.

    The caller answers this stage once and then erases the state.

    Raises:
        ProtocolError: fewer than that signed it (agreement).
    """
    _, assembly = _open(state, "checked", roster)
    digest = assembly.final_transcript(state.senders, state.survivors)
    alive = frozenset(read_members(state.survivors, len(roster.entries)))
    agreed = 0
    for chosen, peer in zip(state.chosen, state.peers, strict=True):
        agreed += chosen in alive and _signed(peer, digest, signatures.get(chosen, b""))
        if agreed == state.call.threshold:
            return state.answer
    raise ProtocolError("agreement", f"{agreed} of the chosen signed this view, fewer than {state.call.threshold}")


def dealt_by(places: Sequence[int], adverts: Sequence[bytes], boxes: Sequence[bytes]) -> dict[int, tuple[bytes, bytes]]:
    """Read what the server sends from those that chose this site: an advert and a box for each.

    Raises:
        ProtocolError: they are not in order, or not as many (places).
    """
    named, sealed = by_place(places, adverts), by_place(places, boxes)
    return {place: (named[place], sealed[place]) for place in named}


def by_place(places: Sequence[int], values: Sequence[Value]) -> dict[int, Value]:
    """Read what the server sends about several sites: their places in order, each once, and a value for each.

    Raises:
        ProtocolError: they are not in order, or not as many (places).
    """
    if list(places) != sorted(set(places)) or len(places) != len(values):
        raise ProtocolError("places", "what is said about several sites is not in order, or not about each once")
    return dict(zip(places, values, strict=True))


def _open(state: NeighbourRound, stage: str, roster: Roster) -> tuple[Advert, Assembly]:
    if state.stage != stage:
        raise ProtocolError("order", f"this round is {state.stage}, which is not {stage}")
    own = state.own
    return own, assembly_of(state.call, own, roster)


def _place(assembly: Assembly, own: Advert) -> int:
    """This site's own place on the roster."""
    try:
        return assembly.roster.entries.index((own.institution, own.identity_key))
    except ValueError as error:
        raise ProtocolError("roster", "this site is not on the roster") from error


def _tag(edge: Edge, shares: bytes) -> bytes:
    """What only a dealer and the holder of its shares know, and the dealer shows once it has masked with the holder."""
    return hashlib.sha256(join([PROTOCOL, b"masked with", *edge.context, shares])).digest()


def _open_boxes(
    state: NeighbourRound, own: Advert, assembly: Assembly, dealt: Mapping[int, tuple[Advert, bytes]]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The shares that the dealers sent, and the tags that they will show, in the same order."""
    held, tags = [], []
    for advert, box in dealt.values():
        edge = Edge(assembly.transcript, advert, own)
        held.append(open_box(state.secrets, edge, box))
        tags.append(_tag(edge, held[-1]))
    return tuple(held), tuple(tags)


def _check_vectors(assembly: Assembly, vectors: Mapping[str, np.ndarray]) -> None:
    lengths = dict(assembly.blocks)
    if set(vectors) != set(lengths):
        raise ProtocolError("vector", "the vectors are not of the blocks that this site advertised")
    for name, vector in vectors.items():
        if vector.dtype != np.uint32 or vector.shape != (lengths[name],):
            raise ProtocolError("vector", f"block {name} is not {lengths[name]} uint32 coordinates")


def _masked(
    secrets: Secrets, own: Advert, transcript: bytes, keys: Mapping[str, bytes], vectors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    agreed = {peer: agree(secrets.masking_key, key) for peer, key in keys.items()}
    masked = {}
    for block, seed in zip(own.block_names, secrets.seeds, strict=True):
        streams = {peer: pair_key(agreed[peer], transcript, (own.institution, peer), block) for peer in agreed}
        plus = [key for peer, key in streams.items() if adds(own.institution, peer)]
        minus = [key for peer, key in streams.items() if not adds(own.institution, peer)]
        masked[block] = np.array(vectors[block], dtype=np.uint32)
        apply_masks(masked[block], plus=[self_key(seed, transcript, own.institution, block), *plus], minus=minus)
    return masked


def _signed(peer: Peer, digest: bytes, signature: bytes) -> bool:
    try:
        check_signature(peer.signing_key, VIEW, digest, signature)
    except ProtocolError:
        return False
    return True
