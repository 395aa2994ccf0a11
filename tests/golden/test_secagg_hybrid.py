"""ML-KEM-768 gives the answers that are published, and our key agreement on top of it never changes unseen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from common.secagg.edge import Edge
from common.secagg.errors import ProtocolError
from common.secagg.hybrid import CIPHERTEXT_BYTES, exchange, public_key, receive, send
from common.secagg.identity import Identity
from common.secagg.keys import agree, derive, public_key_of
from common.secagg.pairs import agreed_by
from common.secagg.transcript import Advert, BlockAdvert, Session, commit_to_pair, sign_advert

_KNOWN = json.loads((Path(__file__).parent / "secagg" / "mlkem768.json").read_text())


def _known(name: str) -> bytes:
    return bytes.fromhex(_KNOWN[name])


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _advert(name: str, secret: bytes, *, post_quantum: bool) -> Advert:
    session = Session("run-1", 3, "training", b"m" * 32, b"p" * 32, post_quantum)
    sharing, masking = (public_key(part * 32, post_quantum=post_quantum) for part in (b"h", secret))
    keys = (Identity(b"i" * 32).public_key, Identity(b"s" * 32).public_key, sharing, masking)
    return Advert(session, name, 3, *keys, blocks=(BlockAdvert("fusion", 9, b"c" * 32),))


def test_ml_kem_keys_and_implicit_rejection_are_those_of_the_published_vector() -> None:
    key = MLKEM768PrivateKey.from_seed_bytes(_known("seed"))
    assert key.public_key().public_bytes_raw() == _known("ek")
    assert key.decapsulate(_known("c")) == _known("K")


def test_both_ends_agree_and_the_sizes_are_those_of_fips_203() -> None:
    ours, theirs = b"a" * 32, b"b" * 32
    public = public_key(theirs, post_quantum=True)
    agreed, ciphertext = send(ours, public)
    assert (len(public), len(ciphertext), len(agreed)) == (32 + 1184, 1088, 32 + 32)
    assert receive(theirs, public_key(ours, post_quantum=True), ciphertext) == agreed


def test_the_hybrid_secret_is_that_of_x25519_then_that_of_ml_kem_written_out() -> None:
    ours, theirs = b"a" * 32, b"b" * 32
    public = public_key(theirs, post_quantum=True)
    agreed, ciphertext = send(ours, public)
    kem = MLKEM768PrivateKey.from_seed_bytes(derive(theirs, b"ml-kem-768 d") + derive(theirs, b"ml-kem-768 z"))
    assert public == public_key_of(derive(theirs, b"x25519")) + kem.public_key().public_bytes_raw()
    assert agreed[:32] == agree(derive(ours, b"x25519"), public_key_of(derive(theirs, b"x25519")))
    assert agreed[32:] == kem.decapsulate(ciphertext)


def test_keys_adverts_and_secrets_of_pairs_never_change_within_their_version() -> None:
    """Fixed secrets, fixed answers of our own; the first was made by the release before there was a version 02."""
    identity = Identity(b"i" * 32)
    session = Session("run-1", 3, "training", b"m" * 32, b"p" * 32)
    keys = (identity.public_key, Identity(b"s" * 32).public_key, b"\x11" * 32, b"\x22" * 32)
    classical = Advert(session, "a", 3, *keys, blocks=(BlockAdvert("fusion", 9, b"c" * 32),))
    low, high = (_advert(name, name.encode(), post_quantum=True) for name in ("a", "b"))
    pair = agreed_by("a", b"a" * 32, Edge(b"t" * 32, low, high), None)
    assert {
        "advert 01": _sha256(sign_advert(classical, identity)),
        "advert 02": _sha256(sign_advert(low, identity)),
        "public": _sha256(public_key(b"s" * 32, post_quantum=True)),
        "pair": pair.hex(),
        "commitment": commit_to_pair(pair, b"t" * 32, b"a", b"b").hex(),
    } == {
        "advert 01": "5df99df41b2e13be490c4598f28fa722bb83a10976016761c419f2d4f735ebd7",
        "advert 02": "5bfe43f983a53d0f1d50d34570a66da509c5d2bd4e4085f5fba11b0065513942",
        "public": "ad5ba3aece0bd66898b073bebbf52b1cef2bb332339bd81a12dcb53fcfbc5803",
        "pair": "8c5ff4f144cf29f7cffa72206149df5289c868b18edd9727530dbd1e75caccfb",
        "commitment": "01e5fbd119f19075b3505eebbac38e62368344da0c01521aaf71e1fab22954fb",
    }


def test_by_x25519_alone_the_secret_is_the_private_key_as_it_was_before_version_02() -> None:
    low, high = (_advert(name, name.encode(), post_quantum=False) for name in ("a", "b"))
    edge = Edge(b"t" * 32, low, high)
    assert low.masking_key == public_key_of(b"a" * 32)
    assert exchange(b"a" * 32, high.masking_key) == agree(b"a" * 32, public_key_of(b"b" * 32))
    assert agreed_by("a", b"a" * 32, edge, None) == agreed_by("b", b"b" * 32, edge, None)
    assert agreed_by("a", b"a" * 32, edge, None) == agree(b"a" * 32, public_key_of(b"b" * 32))


def test_a_ciphertext_of_another_length_is_refused() -> None:
    public = public_key(b"a" * 32, post_quantum=True)
    for wrong in (b"", bytes(CIPHERTEXT_BYTES - 1), bytes(CIPHERTEXT_BYTES + 1)):
        with pytest.raises(ProtocolError) as caught:
            receive(b"b" * 32, public, wrong)
        assert caught.value.code == "ciphertext"
