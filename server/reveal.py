"""From revealed shares to secrets, and from secrets to the masks that must come off a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from common.secagg.edge import read_box
from common.secagg.errors import ProtocolError
from common.secagg.hybrid import public_key
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.pairs import agreed_by
from common.secagg.shamir import SECRET_BYTES, combine, weights_at_zero
from common.secagg.table import Table
from common.secagg.transcript import MASKING_KEY, Advert, commit_to_seed, commit_to_share

Item = tuple[str, str]  # (dealer, name of the secret)
Inbox = Mapping[str, Mapping[str, bytes]]  # the sealed boxes, by receiver and dealer


@dataclass(frozen=True)
class Unlocked:
    """What unmasking needs, by (site, block) and by (site that is gone, survivor).

    `seeds` are those of the survivors' own masks; the masks of a site that is gone come from what was `agreed`.
    """

    seeds: Mapping[Item, bytes]
    agreed: Mapping[tuple[str, str], bytes]


def dealt_to_all(table: Table, dealer: str, boxes: Mapping[str, bytes]) -> bool:
    """Tell whether a site sent one well-formed box to every site."""
    try:
        return set(boxes) == set(table.sites) and all(read_box(table.edge(dealer, site), boxes[site]) for site in boxes)
    except ProtocolError:
        return False


def read_shares(
    table: Table, site: str, items: Sequence[Item], body: bytes, boxes: Mapping[str, bytes]
) -> tuple[bytes, ...]:
    """Read the shares of `items` that a site reveals, and check each against its dealer's commitment.

    `boxes` are the sealed boxes that the site was sent, by dealer.

    Raises:
        ProtocolError: there are too few or too many (malformed), or one is not the one that was dealt (share).
    """
    shares = tuple(body[start : start + SECRET_BYTES] for start in range(0, len(body), SECRET_BYTES))
    if len(body) != SECRET_BYTES * len(items):
        raise ProtocolError("malformed", "a site revealed another number of shares than it was asked for")
    for (dealer, name), share in zip(items, shares, strict=True):
        promised = read_box(table.edge(dealer, site), boxes[dealer]).commitment(
            table.advert(dealer).secret_names.index(name)
        )
        if commit_to_share(share, table.transcript, (dealer, site), name) != promised:
            raise ProtocolError("share", "a site revealed a share that it was not dealt")
    return shares


def rebuild(
    table: Table, items: Sequence[Item], shares: Mapping[str, Sequence[bytes]], inbox: Inbox
) -> tuple[Unlocked, tuple[str, ...]]:
    """Rebuild the secrets from the shares of `threshold` sites, and check them against the adverts.

    Returns what they unlock, and the dealers whose shares do not give what their adverts commit to, or whose envelopes
    do not hold what they commit to.
    """
    chosen = sorted(shares)[: table.threshold]
    weights = weights_at_zero([table.sites.index(site) + 1 for site in chosen])
    secrets: dict[Item, bytes] = {}
    culprits = set()
    for index, (dealer, name) in enumerate(items):
        secret = combine([shares[site][index] for site in chosen], weights)
        if is_committed(table.advert(dealer), name, secret):
            secrets[dealer, name] = secret
        else:
            culprits.add(dealer)
    seeds = {item: secret for item, secret in secrets.items() if item[1] != MASKING_KEY}
    gone = {dealer: secret for (dealer, name), secret in secrets.items() if name == MASKING_KEY}
    agreed, liars = _agreed_with_gone(table, gone, sorted({site for site, _ in seeds}), inbox)
    return Unlocked(seeds, agreed), tuple(sorted(culprits | liars))


def take_masks_off(total: np.ndarray, table: Table, block: str, cohort: Sequence[str], unlocked: Unlocked) -> None:
    """Remove from a block's sum over `cohort`, in place, their own masks and those shared with sites that dropped out.

    The masks that two sites of the cohort share have cancelled already.
    """
    plus: list[bytes] = []
    minus = [self_key(unlocked.seeds[site, block], table.transcript, site, block) for site in cohort]
    for (gone, site), agreed in unlocked.agreed.items():
        if site in cohort and block in table.advert(gone).block_names:
            key = pair_key(agreed, table.transcript, (site, gone), block)
            (minus if adds(site, gone) else plus).append(key)
    apply_masks(total, plus=plus, minus=minus)


def is_committed(advert: Advert, name: str, secret: bytes) -> bool:
    """Tell whether a rebuilt secret is the one that its dealer's advert commits to."""
    if name == MASKING_KEY:
        return public_key(secret, post_quantum=advert.session.post_quantum) == advert.masking_key
    return commit_to_seed(secret, advert.session, advert.institution, name) == advert.block(name).commitment


def _agreed_with_gone(
    table: Table, gone: Mapping[str, bytes], survivors: Sequence[str], inbox: Inbox
) -> tuple[dict[tuple[str, str], bytes], set[str]]:
    """What the masks between those that are `gone` and each survivor were derived from, and who lied about it.

    Whoever is gone is known by the masking secret, which was checked against the advert: so what does not fit it is
    the lower-named site's doing, which made the envelope, or the survivor's, whose key is no point.
    """
    agreed, liars = {}, set()
    for (dealer, secret), site in product(gone.items(), survivors):
        edge = table.edge(*sorted((dealer, site)))
        low, high = edge.source.institution, edge.destination.institution
        try:
            envelope = read_box(edge, inbox[high][low]).envelope or None
            agreed[dealer, site] = agreed_by(dealer, secret, edge, envelope)
        except ProtocolError as error:
            liars.add(site if error.code == "key" else low)
    return agreed, liars
