"""Two sites of a round, and the layout of the sealed box that one of them deals to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.secagg.errors import ProtocolError
from common.secagg.hybrid import CIPHERTEXT_BYTES
from common.secagg.keys import KEY_BYTES
from common.secagg.layout import join, split
from common.secagg.transcript import HASH_BYTES, Advert, commit_to_share

ENVELOPE_BYTES = CIPHERTEXT_BYTES + KEY_BYTES + HASH_BYTES


@dataclass(frozen=True)
class Edge:
    """An ordered pair of sites and T1, the hash of what both saw: everything between the two is bound to these."""

    transcript: bytes
    source: Advert
    destination: Advert

    @property
    def context(self) -> tuple[bytes, bytes, bytes]:
        """What keys and sealed boxes are bound to."""
        return self.transcript, self.source.institution.encode(), self.destination.institution.encode()

    @property
    def post_quantum(self) -> bool:
        """Whether the two agree by ML-KEM too; the same for all sites of a round."""
        return self.source.session.post_quantum

    @property
    def has_envelope(self) -> bool:
        """Whether the source lets the destination know the secret of their masks: the lower-named one does."""
        return self.post_quantum and self.source.institution < self.destination.institution

    def commitments(self, shares: Sequence[bytes]) -> bytes:
        """Commit to all shares that the source deals to the destination."""
        pair = (self.source.institution, self.destination.institution)
        dealt = zip(shares, self.source.secret_names, strict=True)
        return b"".join(commit_to_share(share, self.transcript, pair, name) for share, name in dealt)


@dataclass(frozen=True)
class Box:
    """A sealed box, and what stands in clear in front of it.

    `commitments` are to the shares inside, in the order of the dealer's secrets. Post-quantum, `ciphertext` is ML-KEM's
    for the key of the box, and `envelope` is the one of `common.secagg.pairs`, where there is one.
    """

    commitments: bytes
    sealed: bytes
    ciphertext: bytes = b""
    envelope: bytes = b""

    @property
    def clear(self) -> tuple[bytes, ...]:
        """All that is not sealed; it is authenticated together with what is."""
        return (self.commitments, self.ciphertext, self.envelope) if self.ciphertext else (self.commitments,)

    def commitment(self, index: int) -> bytes:
        """The commitment to the share of one of the dealer's secrets."""
        return self.commitments[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def to_bytes(self) -> bytes:
        """Write the box: each field behind its length; without ML-KEM its two fields do not exist."""
        return join([*self.clear, self.sealed])


def read_box(edge: Edge, body: bytes) -> Box:
    """Read the box that the source dealt to the destination.

    Raises:
        ProtocolError: it is not of the layout that both adverts ask for (ciphertext).
    """
    try:
        fields = split(body)
    except ValueError as error:
        raise ProtocolError("ciphertext", "a sealed box is malformed") from error
    expected = [HASH_BYTES * len(edge.source.secret_names)]
    if edge.post_quantum:
        expected += [CIPHERTEXT_BYTES, ENVELOPE_BYTES if edge.has_envelope else 0]
    if [len(field) for field in fields[:-1]] != expected:
        raise ProtocolError("ciphertext", "a sealed box has other fields in front of it than it must have")
    return Box(fields[0], fields[-1], *fields[1:-1])
