"""The primitives under the protocol give the answers that their standards print."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.secagg.errors import ProtocolError
from common.secagg.hybrid import check_public_key
from common.secagg.identity import Identity, verify
from common.secagg.keys import agree, derive, public_key_of
from common.secagg.keystream import keystream
from common.secagg.layout import join
from common.secagg.masks import pair_key, self_key
from common.secagg.transcript import commit_to_share, final_transcript, first_transcript


def test_the_keystream_is_that_of_sp_800_38a_f_5_5() -> None:
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    stream = keystream(key, counter, len(plain))
    assert bytes(a ^ b for a, b in zip(plain, stream, strict=True)) == cipher


def test_agreement_is_that_of_rfc_7748_6_1() -> None:
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    agreed = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert public_key_of(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert public_key_of(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert agree(alice, public_key_of(bob)).hex() == agreed
    assert agree(bob, public_key_of(alice)).hex() == agreed


def test_a_public_key_is_refused_exactly_where_there_is_no_secret_with_it() -> None:
    """The points of low order as OpenSSL finds them, also with the top bit set or not reduced, and their neighbours."""
    field = 2**255 - 19
    eights = (
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    )
    for base in (0, 1, field - 1, field, field + 1, *eights):
        for number in (base - 1, base, base + 1):
            for key in (number % 2**255, number % 2**255 + 2**255):
                public = key.to_bytes(32, "little")
                check, exchange = (
                    partial(check_public_key, public, post_quantum=False),
                    partial(agree, b"k" * 32, public),
                )
                assert refuses(check) is refuses(exchange)
    assert refuses(lambda: agree(b"k" * 32, eights[0].to_bytes(32, "little")))


def refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except (ValueError, ProtocolError):
        return True
    return False


def test_agreement_refuses_a_point_of_low_order() -> None:
    with pytest.raises(ProtocolError) as caught:
        agree(b"\x01" * 32, bytes(32))
    assert caught.value.code == "key"


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_signatures_are_those_of_rfc_8032_7_1(seed: str, public: str, message: str, signature: str) -> None:
    identity = Identity(bytes.fromhex(seed))
    assert identity.public_key.hex() == public
    assert identity.sign(bytes.fromhex(message)).hex() == signature
    verify(identity.public_key, bytes.fromhex(message), bytes.fromhex(signature))


def test_the_hkdf_that_we_call_is_that_of_rfc_5869_a_1() -> None:
    hkdf = HKDF(
        algorithm=SHA256(),
        length=42,
        salt=bytes.fromhex("000102030405060708090a0b0c"),
        info=bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
    )
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert hkdf.derive(b"\x0b" * 22).hex() == expected


def _hkdf_by_hand(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 in two lines of HMAC, for one block of output."""
    extracted = _hmac(b"fedmosaic/secagg/1", secret)
    return _hmac(extracted, info + b"\x01")


def _hmac(key: bytes, message: bytes) -> bytes:
    """RFC 2104 with SHA-256, for keys of at most 64 bytes."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()


def test_derived_keys_follow_rfc_5869_written_out() -> None:
    assert derive(b"s" * 32, b"purpose", b"one", b"two") == _hkdf_by_hand(b"s" * 32, join([b"purpose", b"one", b"two"]))


def test_mask_keys_and_transcripts_never_change_within_this_version() -> None:
    """Fixed keys, fixed answers of our own: a change here is another protocol, and needs another version byte."""
    first = first_transcript([b"advert one", b"advert two"], 2)
    final = final_transcript(first, ("a", "b", "c"), ("a", "b"), ("fusion",))
    answers = {
        "T1": first,
        "T3": final,
        "pair": pair_key(b"k" * 32, first, ("a", "b"), "fusion"),
        "self": self_key(b"k" * 32, first, "a", "fusion"),
        "share": commit_to_share(b"s" * 32, first, ("a", "b"), "fusion"),
    }
    assert {name: value.hex() for name, value in answers.items()} == {
        "T1": "ff6d87874e80fba3ce1246e4ec032bac578e2ba05fb4d63fc39022e3b8bcf1af",
        "T3": "897c108fbeb113a61c5557972759c51791ca0b6816d13ca9fb253c7e5f9ca309",
        "pair": "51ff7e15b9eecf660305837e56a539dece51f2dd91d6f187cce6884773c74257",
        "self": "e910613f6f488698a1adbc0d5143ee142c92ddc79925917a9a0d8ee2442ae2ee",
        "share": "900064f67fed410edf763a5e93426402e304845c779aa93cfda06f64bee54a88",
    }


def test_the_first_transcript_is_sha_256_of_its_fields_written_out() -> None:
    def behind_length(field: bytes) -> bytes:
        return len(field).to_bytes(4, "big") + field

    fields = (b"fedmosaic/secagg/1", b"T1", (2).to_bytes(8, "big"), b"advert one", b"advert two")
    expected = hashlib.sha256(b"".join(behind_length(field) for field in fields)).digest()
    assert first_transcript([b"advert one", b"advert two"], 2) == expected
