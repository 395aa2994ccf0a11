"""Sealed boxes: the shares of one site's secrets, on their way to each of the others, and back out of them."""

from __future__ import annotations

from client.site_round import Secrets
from common.secagg.errors import ProtocolError
from common.secagg.keys import agree, derive, seal, unseal
from common.secagg.layout import join, split
from common.secagg.shamir import SECRET_BYTES, share_secret
from common.secagg.table import Table

_PARTS = 2


def deal(secrets: Secrets, institution: str, table: Table) -> dict[str, bytes]:
    """Share this site's secrets out: one sealed box for every site of the round, this one included."""
    dealt = [
        share_secret(secret, threshold=table.threshold, num_shares=len(table.sites))
        for secret in (secrets.masking_key, *secrets.seeds)
    ]
    boxes = {}
    for site, shares in zip(table.sites, zip(*dealt, strict=True), strict=True):
        pair = (institution, site)
        commitments = b"".join(table.commitments(pair, shares))
        agreed = agree(secrets.sharing_key, table.advert(site).sharing_key)
        key, associated = _box(agreed, table, pair, commitments)
        boxes[site] = join([commitments, seal(key, b"".join(shares), associated)])
    return boxes


def open_box(secrets: Secrets, table: Table, pair: tuple[str, str], box: bytes) -> bytes:
    """Open the box that the first site of the pair dealt to the second, this one: its shares, one after the other.

    Raises:
        ProtocolError: the box does not open (ciphertext), or holds other shares than it commits to (share).
    """
    try:
        parts = split(box)
    except ValueError as error:
        raise ProtocolError("ciphertext", "a sealed share is malformed") from error
    if len(parts) != _PARTS:
        raise ProtocolError("ciphertext", "a sealed share is malformed")
    agreed = agree(secrets.sharing_key, table.advert(pair[0]).sharing_key)
    key, associated = _box(agreed, table, pair, parts[0])
    held = unseal(key, parts[1], associated)
    shares = [held[start : start + SECRET_BYTES] for start in range(0, len(held), SECRET_BYTES)]
    if len(held) != SECRET_BYTES * len(table.secrets_of(pair[0])):
        raise ProtocolError("share", "a peer dealt shares of another number of secrets than it advertised")
    if b"".join(table.commitments(pair, shares)) != parts[0]:
        raise ProtocolError("share", "a peer dealt shares that it did not commit to")
    return held


def share_of(table: Table, dealer: str, item: str, held: bytes) -> bytes:
    """The share of one of a dealer's secrets, out of what its box held."""
    start = table.secrets_of(dealer).index(item) * SECRET_BYTES
    return held[start : start + SECRET_BYTES]


def _box(agreed: bytes, table: Table, pair: tuple[str, str], commitments: bytes) -> tuple[bytes, bytes]:
    """The key and the associated data of the box from the first site of the pair to the second."""
    source, destination = (name.encode() for name in pair)
    associated = join([table.transcript, source, destination, commitments])
    return derive(agreed, b"shares", table.transcript, source, destination), associated
