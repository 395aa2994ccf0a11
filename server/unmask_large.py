"""The end of a large sum: every dealer's secret from its own neighbours' shares, and the masks that must come off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.secagg.edge import read_box
from common.secagg.keys import agree
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.shamir import SECRET_BYTES, combine, weights_at_zero
from common.secagg.transcript import HASH_BYTES, MASKING_KEY, commit_to_share
from server.neighbours import LargeSum, LargeSurvivors
from server.reveal import is_committed
from server.unmask import RoundAborted

Shares = dict[int, dict[int, tuple[bytes, ...]]]  # by dealer and holder, both places


def unmask_large(
    survivors: LargeSurvivors, total: LargeSum, reveals: Mapping[int, bytes]
) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Take the masks off the sums: each block's exact sum modulo 2^32 and the sites that are in it.

    Consumes the running sums. Wrong shares are left out; `wrong_large_shares` names who sent them.

    Raises:
        RoundAborted: too few neighbours of some site revealed sound shares (reveals), or a site dealt shares that do
            not give the secret that it had committed to (dealer).
    """
    shares, _ = _read_reveals(survivors, reveals)
    secrets = _rebuild(survivors, shares)
    sums = {}
    for block, _ in survivors.dealing.graph.gathering.assembly.blocks:
        vector = total.totals.pop(block)
        _take_masks_off(vector, survivors, block, secrets)
        sums[block] = (vector, survivors.names)
    return sums


def wrong_large_shares(survivors: LargeSurvivors, reveals: Mapping[int, bytes]) -> dict[str, str]:
    """Name the sites whose revealed shares are not the ones that were dealt to them, with a fixed code each."""
    return _read_reveals(survivors, reveals)[1]


def _asked(survivors: LargeSurvivors, dealer: int) -> tuple[str, ...]:
    """The secrets of a dealer of which its neighbours reveal shares: never both kinds."""
    items = survivors.dealing.graph.gathering.assembly.items
    return items[1:] if dealer in survivors.alive else items[:1]


def _read_reveals(survivors: LargeSurvivors, reveals: Mapping[int, bytes]) -> tuple[Shares, dict[str, str]]:
    """Sort reveals into sound shares by dealer and holder, and sites whose shares are wrong."""
    shares: Shares = {dealer: {} for dealer in survivors.dealing.boxes}
    wrong: dict[str, str] = {}
    for holder in sorted(survivors.alive & reveals.keys()):
        body, dealers = reveals[holder], survivors.dealing.dealers[holder]
        sizes = [SECRET_BYTES * len(_asked(survivors, dealer)) for dealer in dealers]
        if body[:HASH_BYTES] != survivors.digest or len(body) != HASH_BYTES + sum(sizes):
            wrong[survivors.dealing.graph.gathering.assembly.name(holder)] = "malformed"
            continue
        found, start = {}, HASH_BYTES
        for dealer, size in zip(dealers, sizes, strict=True):
            found[dealer] = tuple(body[at : at + SECRET_BYTES] for at in range(start, start + size, SECRET_BYTES))
            start += size
        if not all(_as_dealt(survivors, (dealer, holder), own) for dealer, own in found.items()):
            wrong[survivors.dealing.graph.gathering.assembly.name(holder)] = "share"
            continue
        for dealer, own in found.items():
            shares[dealer][holder] = own
    return shares, wrong


def _as_dealt(survivors: LargeSurvivors, pair: tuple[int, int], shares: tuple[bytes, ...]) -> bool:
    gathering, (dealer, holder) = survivors.dealing.graph.gathering, pair
    box = read_box(gathering.edge(dealer, holder), survivors.dealing.boxes[dealer][holder])
    names, items = (gathering.assembly.name(dealer), gathering.assembly.name(holder)), gathering.assembly.items
    return all(
        commit_to_share(share, gathering.assembly.transcript, names, item) == box.commitment(items.index(item))
        for item, share in zip(_asked(survivors, dealer), shares, strict=True)
    )


def _rebuild(survivors: LargeSurvivors, shares: Shares) -> dict[tuple[int, str], bytes]:
    """Rebuild what was asked for of every dealer, and check it against its advert."""
    graph = survivors.dealing.graph
    threshold = graph.gathering.assembly.call.threshold
    secrets, culprits = {}, []
    for dealer, by_holder in shares.items():
        holders = [place for place in graph.choices[dealer] if place in by_holder][:threshold]
        if len(holders) < threshold:
            raise RoundAborted("reveals")
        weights = weights_at_zero([graph.choices[dealer].index(holder) + 1 for holder in holders])
        advert = graph.gathering.adverts[dealer]
        for index, item in enumerate(_asked(survivors, dealer)):
            secret = combine([by_holder[holder][index] for holder in holders], weights)
            secrets[dealer, item] = secret
            if not is_committed(advert, item, secret):
                culprits.append(advert.institution)
    if culprits:
        raise RoundAborted("dealer", sorted(set(culprits)))
    return secrets


def _take_masks_off(
    vector: np.ndarray, survivors: LargeSurvivors, block: str, secrets: Mapping[tuple[int, str], bytes]
) -> None:
    """Remove, in place, the survivors' own masks and those that they share with neighbours that dropped out."""
    gathering = survivors.dealing.graph.gathering
    transcript, name = gathering.assembly.transcript, gathering.assembly.name
    for place in sorted(survivors.alive):
        apply_masks(vector, plus=[], minus=[self_key(secrets[place, block], transcript, name(place), block)])
    for gone in sorted(set(survivors.dealing.boxes) - survivors.alive):
        plus: list[bytes] = []
        minus: list[bytes] = []
        for place in sorted(survivors.dealing.masked_with(gone) & survivors.alive):
            agreed = agree(secrets[gone, MASKING_KEY], gathering.adverts[place].masking_key)
            key = pair_key(agreed, transcript, (name(place), name(gone)), block)
            (minus if adds(name(place), name(gone)) else plus).append(key)
        apply_masks(vector, plus=plus, minus=minus)
