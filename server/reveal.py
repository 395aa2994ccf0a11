"""From revealed shares to secrets, and from secrets to the masks that must come off a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.secagg.errors import ProtocolError
from common.secagg.keys import agree, public_key_of
from common.secagg.layout import split
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.shamir import SECRET_BYTES, combine, weights_at_zero
from common.secagg.table import MASKING_KEY, Table
from common.secagg.transcript import HASH_BYTES, commit_to_seed, commit_to_share

Item = tuple[str, str]  # (dealer, name of the secret)
_PARTS = 2


def commitments_in(table: Table, dealer: str, box: bytes) -> tuple[bytes, ...]:
    """Read the commitments that stand in front of a sealed box, in the order of the dealer's secrets.

    Raises:
        ProtocolError: the box is malformed (shares).
    """
    try:
        parts = split(box)
    except ValueError as error:
        raise ProtocolError("shares", "a sealed box is malformed") from error
    if len(parts) != _PARTS or len(parts[0]) != HASH_BYTES * len(table.secrets_of(dealer)):
        raise ProtocolError("shares", "a sealed box does not hold one commitment per secret")
    return _cut(parts[0], HASH_BYTES)


def read_shares(
    table: Table, site: str, items: Sequence[Item], body: bytes, boxes: Mapping[str, bytes]
) -> tuple[bytes, ...]:
    """Read the shares of `items` that a site reveals, and check each against its dealer's commitment.

    `boxes` are the sealed boxes that the site was sent, by dealer.

    Raises:
        ProtocolError: there are too few or too many (malformed), or one is not the one that was dealt (share).
    """
    shares = _cut(body, SECRET_BYTES)
    if len(body) != SECRET_BYTES * len(items):
        raise ProtocolError("malformed", "a site revealed another number of shares than it was asked for")
    for (dealer, name), share in zip(items, shares, strict=True):
        promised = commitments_in(table, dealer, boxes[dealer])[table.secrets_of(dealer).index(name)]
        if commit_to_share(share, table.transcript, (dealer, site), name) != promised:
            raise ProtocolError("share", "a site revealed a share that it was not dealt")
    return shares


def rebuild(
    table: Table, items: Sequence[Item], shares: Mapping[str, Sequence[bytes]]
) -> tuple[dict[Item, bytes], tuple[str, ...]]:
    """Rebuild the secrets from the shares of `threshold` sites, and check them against the adverts.

    Returns the secrets, and the dealers whose shares do not give what their adverts commit to.
    """
    chosen = sorted(shares)[: table.threshold]
    weights = weights_at_zero([table.sites.index(site) + 1 for site in chosen])
    secrets: dict[Item, bytes] = {}
    culprits = set()
    for index, (dealer, name) in enumerate(items):
        secret = combine([shares[site][index] for site in chosen], weights)
        if _is_committed(table, dealer, name, secret):
            secrets[dealer, name] = secret
        else:
            culprits.add(dealer)
    return secrets, tuple(sorted(culprits))


def take_masks_off(
    total: np.ndarray, table: Table, block: str, cohort: Sequence[str], secrets: Mapping[Item, bytes]
) -> None:
    """Remove from a block's sum over `cohort`, in place, their own masks and those shared with sites that dropped out.

    The masks that two sites of the cohort share have cancelled already.
    """
    plus: list[bytes] = []
    minus = [self_key(secrets[site, block], table.transcript, site, block) for site in cohort]
    gone = [dealer for dealer, name in secrets if name == MASKING_KEY and block in table.advert(dealer).block_names]
    for dealer in gone:
        for site in cohort:
            agreed = agree(secrets[dealer, MASKING_KEY], table.advert(site).masking_key)
            key = pair_key(agreed, table.transcript, (site, dealer), block)
            (minus if adds(site, dealer) else plus).append(key)
    apply_masks(total, plus=plus, minus=minus)


def _is_committed(table: Table, dealer: str, name: str, secret: bytes) -> bool:
    advert = table.advert(dealer)
    if name == MASKING_KEY:
        return public_key_of(secret) == advert.masking_key
    return commit_to_seed(secret, advert.session, dealer, name) == advert.block(name).commitment


def _cut(body: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(body[start : start + size] for start in range(0, len(body), size))
