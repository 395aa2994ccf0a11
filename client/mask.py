"""A site's side of the secure sum: five stages, each from a state and the server's words to a state and an answer.

The server is trusted with nothing but delivery. Whatever it says that the protocol does not allow raises ProtocolError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from client.boxes import deal, open_box, share_of
from client.site_round import Secrets, SiteRound
from common.secagg.edge import read_box
from common.secagg.errors import ProtocolError
from common.secagg.hybrid import public_key
from common.secagg.identity import Identity, new_identity
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.pairs import agreed_by
from common.secagg.roster import Roster
from common.secagg.shamir import draw_secret
from common.secagg.table import Table, check_member, read_table
from common.secagg.transcript import (
    Advert,
    BlockAdvert,
    Session,
    check_signature,
    commit_to_seed,
    final_transcript,
    sign_advert,
    sign_transcript,
)

__all__ = ["ProtocolError", "Session", "SiteRound", "advertise", "check", "mask", "reveal", "share"]


def advertise(
    session: Session, identity: Identity, block_lengths: Mapping[str, int], *, institution: str, k_min: int
) -> tuple[SiteRound, bytes]:
    """Stage 0: draw this round's keys and seeds, and sign an advert of them.

    `block_lengths` names the blocks that will be masked. `k_min` is this site's smallest cohort: it stands in the
    signed advert, so that all others respect it too. The advert says nothing else about the site's data.

    Raises:
        ProtocolError: a name is empty or too long, or there is no block (advert).
    """
    names = sorted(block_lengths)
    seeds = tuple(draw_secret() for _ in names)
    secrets = Secrets(new_identity().private_key, draw_secret(), draw_secret(), seeds)
    try:
        advert = Advert(
            session=session,
            institution=institution,
            k_min=k_min,
            identity_key=identity.public_key,
            signing_key=Identity(secrets.signing_key).public_key,
            sharing_key=public_key(secrets.sharing_key, post_quantum=session.post_quantum),
            masking_key=public_key(secrets.masking_key, post_quantum=session.post_quantum),
            blocks=tuple(
                BlockAdvert(name, block_lengths[name], commit_to_seed(seed, session, institution, name))
                for name, seed in zip(names, seeds, strict=True)
            ),
        )
        raw = sign_advert(advert, identity)
    except (ValueError, OverflowError) as error:
        raise ProtocolError("advert", f"this site's own advert is malformed: {error}") from error
    return SiteRound("advertised", raw, secrets), raw


def share(
    state: SiteRound, adverts: Sequence[bytes], threshold: int, roster: Roster, k_min: int
) -> tuple[SiteRound, dict[str, bytes], bytes]:
    """Stage 1: check everybody's adverts and deal shares of this site's secrets.

    Returns the new state, one sealed box for every site of the round (this one included), and the signature on T1.

    Raises:
        ProtocolError: an advert is wrong, missing, strange to the roster or of another round; the threshold is too
            low; the site now asks for a larger cohort than it advertised (k-min); too few sites take part (cohort).
    """
    _expect(state, "advertised")
    own, table = state.own, read_table(adverts, threshold)
    for advert in table.adverts:
        check_member(advert, roster)
    if state.advert not in adverts:  # with it in, and all adverts of one session, that session is this site's own
        raise ProtocolError("own-advert", "this site's own advert is not among the adverts as it was sent")
    if k_min > own.k_min:
        raise ProtocolError("k-min", f"the smallest cohort is now {k_min}, but {own.k_min} was advertised")
    if len(table.sites) < own.k_min:
        raise ProtocolError("cohort", f"{len(table.sites)} sites take part, fewer than {own.k_min}")
    boxes = deal(state.secrets, own.institution, table)
    signature = sign_transcript(Identity(state.secrets.signing_key), b"T1", table.transcript)
    return replace(state, stage="shared", adverts=tuple(adverts), threshold=threshold), boxes, signature


def mask(
    state: SiteRound,
    ciphertexts: Mapping[str, bytes],
    signatures: Mapping[str, bytes],
    vectors: Mapping[str, np.ndarray],
) -> tuple[SiteRound, dict[str, np.ndarray]]:
    """Stage 2: check that all who shared saw the same adverts, open the shares, and mask this site's vectors.

    Returns the new state and one uint32 vector per block of this site, all of them: a drop-out is atomic.

    Raises:
        ProtocolError: too few or wrong sites shared (senders), one of them saw something else (signature), a share
            does not open (ciphertext) or is not the one committed to (share), nor is a pair's secret (pair), a vector
            is not as advertised (vector).
    """
    _expect(state, "shared")
    own, table, secrets = state.own, state.table, state.secrets
    senders = tuple(sorted(signatures))
    if set(ciphertexts) != set(senders) or not set(senders) <= set(table.sites):
        raise ProtocolError("senders", "those who shared and those who signed are not the same sites of this round")
    if own.institution not in senders or len(senders) < table.threshold:
        raise ProtocolError("senders", f"{len(senders)} sites shared; this one must be among {table.threshold} or more")
    for sender in senders:
        check_signature(table.advert(sender).signing_key, b"T1", table.transcript, signatures[sender])
    edges = [table.edge(sender, own.institution) for sender in senders]
    held = tuple(open_box(secrets, edge, ciphertexts[edge.source.institution]) for edge in edges)
    _check_vectors(own, vectors)
    agreed = _agreed(secrets, own.institution, table, ciphertexts)
    masked = _masked(secrets, own, table, agreed, vectors)
    kept = Secrets(signing_key=secrets.signing_key)
    return replace(state, stage="masked", secrets=kept, senders=senders, held=held), masked


def check(state: SiteRound, survivors: Sequence[str], blocks: Sequence[str]) -> tuple[SiteRound, bytes]:
    """Stage 3: check who survived and what will be summed, sign it, and keep only the shares that fit it.

    Raises:
        ProtocolError: the survivors are not `threshold` or more of those who shared, this site among them
            (survivors); a block is unknown or repeated (blocks), or summed over too few sites (cohort).
    """
    _expect(state, "masked")
    own, table = state.own, state.table
    alive, summed = tuple(sorted(set(survivors))), tuple(sorted(set(blocks)))
    if len(alive) != len(survivors) or not set(alive) <= set(state.senders) or own.institution not in alive:
        raise ProtocolError("survivors", "the survivors are not different sites of those who shared, with this one")
    if len(alive) < table.threshold:
        raise ProtocolError("survivors", f"{len(alive)} sites survived, fewer than {table.threshold}")
    if not summed or len(summed) != len(blocks) or not set(summed) <= set(table.blocks):
        raise ProtocolError("blocks", "the blocks to be summed are not different blocks of this round")
    for block in summed:
        cohort = table.holders(block, alive)
        if not cohort or len(cohort) < table.smallest_cohort(cohort):
            raise ProtocolError("cohort", f"block {block} would be summed over {len(cohort)} sites")
    digest = final_transcript(table.transcript, state.senders, alive, summed)
    signature = sign_transcript(Identity(state.secrets.signing_key), b"T3", digest)
    answer = digest + b"".join(
        share_of(table.advert(dealer), item, state.held[state.senders.index(dealer)])
        for dealer, item in table.revealed_items(state.senders, alive, summed)
    )
    # From here on the state cannot answer for any other view: all other shares are gone.
    checked = replace(state, stage="checked", secrets=Secrets(), held=(), survivors=alive, blocks=summed, answer=answer)
    return checked, signature


def reveal(state: SiteRound, signatures: Mapping[str, bytes]) -> bytes:
    """Stage 4: give the shares that unmask the sum, if `threshold` survivors signed the very same view.

    The caller answers this stage once and then erases the state.

    Raises:
        ProtocolError: fewer than that signed it (agreement).
    """
    _expect(state, "checked")
    table = state.table
    digest = final_transcript(table.transcript, state.senders, state.survivors, state.blocks)
    agreed = [site for site in state.survivors if site in signatures and _signed(table, site, digest, signatures[site])]
    if len(agreed) < table.threshold:
        raise ProtocolError("agreement", f"{len(agreed)} sites signed this view, fewer than {table.threshold}")
    return state.answer


def _expect(state: SiteRound, stage: str) -> None:
    if state.stage != stage:
        raise ProtocolError("order", f"this round is {state.stage}, which is not {stage}")


def _check_vectors(own: Advert, vectors: Mapping[str, np.ndarray]) -> None:
    if sorted(vectors) != list(own.block_names):
        raise ProtocolError("vector", "the vectors are not of the blocks that this site advertised")
    for block in own.blocks:
        vector = vectors[block.name]
        if vector.dtype != np.uint32 or vector.shape != (block.length,):
            raise ProtocolError("vector", f"block {block.name} is not {block.length} uint32 coordinates")


def _agreed(secrets: Secrets, own: str, table: Table, ciphertexts: Mapping[str, bytes]) -> dict[str, bytes]:
    """What the masks with each of the other senders are derived from; the boxes were opened before."""
    agreed = {}
    for peer in sorted(set(ciphertexts) - {own}):
        edge = table.edge(*sorted((own, peer)))
        envelope = read_box(edge, ciphertexts[peer]).envelope if peer < own else None
        agreed[peer] = agreed_by(own, secrets.masking_key, edge, envelope)
    return agreed


def _masked(
    secrets: Secrets, own: Advert, table: Table, agreed: Mapping[str, bytes], vectors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    masked = {}
    for block, seed in zip(own.block_names, secrets.seeds, strict=True):
        keys = {
            peer: pair_key(agreed[peer], table.transcript, (own.institution, peer), block)
            for peer in table.holders(block, agreed)
        }
        plus = [key for peer, key in keys.items() if adds(own.institution, peer)]
        minus = [key for peer, key in keys.items() if not adds(own.institution, peer)]
        masked[block] = np.array(vectors[block], dtype=np.uint32)
        own_key = self_key(seed, table.transcript, own.institution, block)
        apply_masks(masked[block], plus=[own_key, *plus], minus=minus)
    return masked


def _signed(table: Table, site: str, digest: bytes, signature: bytes) -> bool:
    try:
        check_signature(table.advert(site).signing_key, b"T3", digest, signature)
    except ProtocolError:
        return False
    return True
