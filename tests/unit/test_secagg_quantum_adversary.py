"""Who recorded a whole round and later solves X25519 reads single vectors of version 01, and none of version 02.

The adversary here is the server of the round: every byte that was sent, and every seed that was revealed. In addition
it is given all X25519 private keys, as a quantum computer would find them in the adverts; nothing else of the sites'.
Each defeat has its control: the same attack with what ML-KEM hides succeeds, so that it fails for no other reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from client.site_round import Secrets
from common.secagg.edge import Box, Edge, read_box
from common.secagg.errors import ProtocolError
from common.secagg.hybrid import CIPHERTEXT_BYTES
from common.secagg.keys import agree, derive, public_key_of, unseal
from common.secagg.layout import join
from common.secagg.masks import adds, apply_masks, pair_key, self_key
from common.secagg.table import Table
from common.secagg.transcript import Session, commit_to_pair
from tests.secagg_round import POST_QUANTUM, SESSION, Message, Script, Trace, Vectors, consortium_of, secure_sum

FOUR = consortium_of(4)
VICTIM = "site-001"
VECTORS: dict[str, Vectors] = {name: {"fusion": np.arange(500, dtype=np.uint32)} for name in FOUR.names}


@dataclass
class Recording:
    """A round as the server saw it; `secrets` is for controls only, and to hand out X25519 private keys."""

    trace: Trace = field(default_factory=Trace)
    secrets: dict[str, Secrets] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        assert self.trace.view is not None
        return self.trace.view.table

    def box(self, edge: Edge) -> Box:
        assert self.trace.routing is not None
        source, destination = edge.source.institution, edge.destination.institution
        return read_box(edge, self.trace.routing.inbox[destination][source])

    def solved(self, site: str, key: str) -> bytes:
        """The X25519 private key behind one of a site's advertised keys, found as by a quantum computer."""
        secret: bytes = getattr(self.secrets[site], key)
        public: bytes = getattr(self.table.advert(site), key)
        private = secret if len(public) == 32 else derive(secret, b"x25519")
        assert public_key_of(private) == public[:32]
        return private

    def decapsulated(self, site: str, key: str, ciphertext: bytes) -> bytes:
        """What ML-KEM hides from the adversary; for controls."""
        secret: bytes = getattr(self.secrets[site], key)
        seed = derive(secret, b"ml-kem-768 d") + derive(secret, b"ml-kem-768 z")
        return MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)


def recorded(session: Session) -> Recording:
    recording = Recording()

    def watch(stage: str, site: str, message: Message) -> Message:
        if stage == "mask":
            recording.secrets[site] = recording.trace.states[site].secrets
        return message

    secure_sum(FOUR, VECTORS, Script(session=session, to_site=watch), recording.trace)
    return recording


@pytest.fixture(scope="module")
def classical() -> Recording:
    return recorded(SESSION)


@pytest.fixture(scope="module")
def hybrid() -> Recording:
    return recorded(POST_QUANTUM)


def guesses(recording: Recording, edge: Edge, hidden: bytes | None = None) -> Iterator[bytes]:
    """What the masks of a pair may come from, as far as the adversary gets; `hidden` is what ML-KEM hides, if known."""
    low, high = edge.source.institution, edge.destination.institution
    shared = agree(recording.solved(low, "masking_key"), edge.destination.masking_key[:32])
    assert shared == agree(recording.solved(high, "masking_key"), edge.source.masking_key[:32])
    yield shared
    yield derive(recording.solved(low, "masking_key"), b"pair secret", *edge.context)
    envelope = recording.box(edge).envelope
    if envelope:
        kem, wrapped, commitment = envelope[:CIPHERTEXT_BYTES], envelope[CIPHERTEXT_BYTES:][:32], envelope[-32:]
        for known in (b"", bytes(32), kem, sha256(kem).digest(), commitment, *([] if hidden is None else [hidden])):
            for secret in (shared + known, known + shared, known):
                yield secret
                if secret:
                    pad = derive(secret, b"pair envelope", *edge.context)
                    yield bytes(one ^ other for one, other in zip(wrapped, pad, strict=True))
        yield from (wrapped, commitment)


def unmasked(recording: Recording, agreed: dict[str, bytes]) -> np.ndarray:
    """The victim's vector without its own mask, whose seed was revealed to the server, and without these pairs'."""
    vector, transcript = recording.trace.masked[VICTIM]["fusion"].copy(), recording.table.transcript
    own = self_key(recording.secrets[VICTIM].seeds[0], transcript, VICTIM, "fusion")
    keys = {peer: pair_key(secret, transcript, (VICTIM, peer), "fusion") for peer, secret in agreed.items()}
    plus = [key for peer, key in keys.items() if not adds(VICTIM, peer)]
    minus = [own, *(key for peer, key in keys.items() if adds(VICTIM, peer))]
    apply_masks(vector, plus=plus, minus=minus)
    return vector


def edges_of_victim(recording: Recording) -> dict[str, Edge]:
    return {peer: recording.table.edge(*sorted((VICTIM, peer))) for peer in FOUR.names if peer != VICTIM}


def matching(recording: Recording, edge: Edge, hidden: bytes | None = None) -> list[bytes]:
    """The guesses that fit the commitment which everybody can read."""
    commitment = recording.box(edge).envelope[-32:]
    return [guess for guess in guesses(recording, edge, hidden) if commit_to_pair(guess, *edge.context) == commitment]


def test_by_x25519_alone_a_recorded_round_opens_to_who_solves_it_later(classical: Recording) -> None:
    """What version 02 is for; and the control of all the attacks below."""
    agreed = {peer: next(guesses(classical, edge)) for peer, edge in edges_of_victim(classical).items()}
    np.testing.assert_array_equal(unmasked(classical, agreed), VECTORS[VICTIM]["fusion"])


def test_post_quantum_no_mask_comes_off_a_recorded_vector(hybrid: Recording) -> None:
    edges = edges_of_victim(hybrid)
    for edge in edges.values():
        assert len(list(guesses(hybrid, edge))) > 30
        assert matching(hybrid, edge) == []
    for number in range(5):
        agreed = {peer: list(guesses(hybrid, edge))[number] for peer, edge in edges.items()}
        assert np.mean(unmasked(hybrid, agreed) == VECTORS[VICTIM]["fusion"]) < 0.02


def test_the_same_attack_succeeds_with_what_ml_kem_hides(hybrid: Recording) -> None:
    agreed = {}
    for peer, edge in edges_of_victim(hybrid).items():
        ciphertext = hybrid.box(edge).envelope[:CIPHERTEXT_BYTES]
        hidden = hybrid.decapsulated(edge.destination.institution, "masking_key", ciphertext)
        (agreed[peer],) = matching(hybrid, edge, hidden)
    np.testing.assert_array_equal(unmasked(hybrid, agreed), VECTORS[VICTIM]["fusion"])


def test_what_ml_kem_hides_opens_nothing_without_x25519(hybrid: Recording) -> None:
    """The other half: ML-KEM is young, and who breaks it alone gets no further either."""
    for edge in edges_of_victim(hybrid).values():
        envelope = hybrid.box(edge).envelope
        hidden = hybrid.decapsulated(edge.destination.institution, "masking_key", envelope[:CIPHERTEXT_BYTES])
        wrapped = envelope[CIPHERTEXT_BYTES:][:32]
        for secret in (hidden, bytes(32) + hidden, hidden + bytes(32)):
            pad = derive(secret, b"pair envelope", *edge.context)
            guess = bytes(one ^ other for one, other in zip(wrapped, pad, strict=True))
            assert commit_to_pair(guess, *edge.context) != envelope[-32:]


def open_later(recording: Recording, edge: Edge, hidden: bytes) -> bytes:
    """Open a recorded box with the solved X25519 keys and what ML-KEM is taken to hide."""
    box = recording.box(edge)
    shared = agree(recording.solved(edge.source.institution, "sharing_key"), edge.destination.sharing_key[:32])
    key = derive(shared + hidden, b"shares", *edge.context)
    return unseal(key, box.sealed, join([*edge.context, *box.clear]))


def every_edge(recording: Recording) -> list[Edge]:
    return [recording.table.edge(one, other) for one in FOUR.names for other in FOUR.names]


def test_by_x25519_alone_recorded_boxes_open_later(classical: Recording) -> None:
    for edge in every_edge(classical):
        assert len(open_later(classical, edge, b"")) == 2 * 32


def test_post_quantum_no_recorded_box_opens_later(hybrid: Recording) -> None:
    for edge in every_edge(hybrid):
        ciphertext = hybrid.box(edge).ciphertext
        for hidden in (b"", bytes(32), ciphertext, sha256(ciphertext).digest()):
            with pytest.raises(ProtocolError):
                open_later(hybrid, edge, hidden)


def test_recorded_boxes_open_with_what_ml_kem_hides(hybrid: Recording) -> None:
    for edge in every_edge(hybrid):
        hidden = hybrid.decapsulated(edge.destination.institution, "sharing_key", hybrid.box(edge).ciphertext)
        assert len(open_later(hybrid, edge, hidden)) == 2 * 32


def test_a_masking_secret_that_was_revealed_opens_no_box(hybrid: Recording) -> None:
    """A site that dropped out has its masking secret known to the server; the boxes it got must stay shut."""
    for edge in every_edge(hybrid):
        box, receiver = hybrid.box(edge), edge.destination.institution
        shared = agree(hybrid.solved(receiver, "masking_key"), edge.source.sharing_key[:32])
        hidden = hybrid.decapsulated(receiver, "masking_key", box.ciphertext)
        with pytest.raises(ProtocolError):
            unseal(derive(shared + hidden, b"shares", *edge.context), box.sealed, join([*edge.context, *box.clear]))
