"""What the masks of a pair of sites are derived from, as either of them computes it, or who holds a secret of one.

By X25519 alone, the two masking keys give it. Post-quantum, the lower-named site derives it from its masking secret and
sends it to the higher-named one in an envelope, hidden under X25519 and ML-KEM together. So either site's masking
secret gives it, as recovery after a drop-out needs, and nothing that was ever sent does without one of those.
"""

from __future__ import annotations

from common.secagg.edge import ENVELOPE_BYTES, Edge
from common.secagg.errors import ProtocolError
from common.secagg.hybrid import CIPHERTEXT_BYTES, exchange, receive, send
from common.secagg.keys import KEY_BYTES, derive
from common.secagg.transcript import commit_to_pair

_Hidden = slice(CIPHERTEXT_BYTES, CIPHERTEXT_BYTES + KEY_BYTES)
_Commitment = slice(CIPHERTEXT_BYTES + KEY_BYTES, ENVELOPE_BYTES)


def enclose(secret: bytes, edge: Edge) -> bytes:
    """Make the envelope: ML-KEM's ciphertext, the hidden secret of the pair, the commitment to it.

    `secret` is the source's masking secret; the source is the lower-named site.

    Guarantees:
        once: what hides the secret of the pair is a one-time pad from a fresh encapsulation.
    """
    agreed, ciphertext = send(secret, edge.destination.masking_key)
    pair_secret = _pair_secret(secret, edge)
    return ciphertext + _hide(pair_secret, agreed, edge) + commit_to_pair(pair_secret, *edge.context)


def agreed_by(owner: str, secret: bytes, edge: Edge, envelope: bytes | None) -> bytes:
    """Compute what the masks of a pair are derived from, with the masking secret of one of the two.

    The edge runs from the lower-named to the higher-named site. `envelope` is None where the lower-named one itself
    asks, or where there is none.

    Raises:
        ProtocolError: what comes out is not what the lower-named site committed to in the envelope (pair), or a
            public key is no usable point (key).
    """
    lower = owner == edge.source.institution
    if not edge.post_quantum:
        return exchange(secret, (edge.destination if lower else edge.source).masking_key)
    if lower:
        pair_secret = _pair_secret(secret, edge)
    elif envelope is None:
        raise ProtocolError("pair", "a peer sent no envelope")
    else:
        agreed = receive(secret, edge.source.masking_key, envelope[:CIPHERTEXT_BYTES])
        pair_secret = _hide(envelope[_Hidden], agreed, edge)
    if envelope is not None and commit_to_pair(pair_secret, *edge.context) != envelope[_Commitment]:
        raise ProtocolError("pair", "a peer enclosed another secret than it committed to")
    return pair_secret


def _pair_secret(secret: bytes, edge: Edge) -> bytes:
    return derive(secret, b"pair secret", *edge.context)


def _hide(pair_secret: bytes, agreed: bytes, edge: Edge) -> bytes:
    """Hide the secret of a pair, or show it again."""
    pad = derive(agreed, b"pair envelope", *edge.context)
    return bytes(one ^ other for one, other in zip(pair_secret, pad, strict=True))
