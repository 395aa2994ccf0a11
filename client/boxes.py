"""Sealed boxes: the shares of one site's secrets, on their way to each of the others, and back out of them."""

from __future__ import annotations

from dataclasses import replace

from client.site_round import Secrets
from common.secagg.edge import Box, Edge, read_box
from common.secagg.errors import ProtocolError
from common.secagg.hybrid import receive, send
from common.secagg.keys import derive, seal, unseal
from common.secagg.layout import join
from common.secagg.pairs import enclose
from common.secagg.shamir import SECRET_BYTES, share_secret
from common.secagg.table import Table
from common.secagg.transcript import Advert


def deal(secrets: Secrets, institution: str, table: Table) -> dict[str, bytes]:
    """Share this site's secrets out: one sealed box for every site of the round, this one included."""
    dealt = [
        share_secret(secret, threshold=table.threshold, num_shares=len(table.sites))
        for secret in (secrets.masking_key, *secrets.seeds)
    ]
    boxes = {}
    for site, shares in zip(table.sites, zip(*dealt, strict=True), strict=True):
        boxes[site] = seal_box(secrets, table.edge(institution, site), shares)
    return boxes


def seal_box(secrets: Secrets, edge: Edge, shares: tuple[bytes, ...]) -> bytes:
    """Seal the shares that the source, this site, deals to the destination."""
    agreed, ciphertext = send(secrets.sharing_key, edge.destination.sharing_key)
    envelope = enclose(secrets.masking_key, edge) if edge.has_envelope else b""
    box = Box(edge.commitments(shares), b"", ciphertext, envelope)
    return replace(box, sealed=seal(_key(agreed, edge), b"".join(shares), _associated(edge, box))).to_bytes()


def open_box(secrets: Secrets, edge: Edge, body: bytes) -> bytes:
    """Open the box that the source dealt to the destination, this site: its shares, one after the other.

    Raises:
        ProtocolError: the box does not open (ciphertext), or holds other shares than it commits to (share).
    """
    box = read_box(edge, body)
    agreed = receive(secrets.sharing_key, edge.source.sharing_key, box.ciphertext)
    held = unseal(_key(agreed, edge), box.sealed, _associated(edge, box))
    if len(held) != SECRET_BYTES * len(edge.source.secret_names):
        raise ProtocolError("share", "a peer dealt shares of another number of secrets than it advertised")
    shares = [held[start : start + SECRET_BYTES] for start in range(0, len(held), SECRET_BYTES)]
    if edge.commitments(shares) != box.commitments:
        raise ProtocolError("share", "a peer dealt shares that it did not commit to")
    return held


def share_of(dealer: Advert, item: str, held: bytes) -> bytes:
    """The share of one of a dealer's secrets, out of what its box held."""
    start = dealer.secret_names.index(item) * SECRET_BYTES
    return held[start : start + SECRET_BYTES]


def _key(agreed: bytes, edge: Edge) -> bytes:
    return derive(agreed, b"shares", *edge.context)


def _associated(edge: Edge, box: Box) -> bytes:
    """What a box is bound to: its way, and all that stands in clear in front of it."""
    return join([*edge.context, *box.clear])
