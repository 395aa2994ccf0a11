"""Identities and rosters: files that only their owner reads, signatures that hold, nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.secagg.identity import create_identity, load_identity, new_identity, verify
from common.secagg.keystream import CHUNK_BYTES, keystream
from common.secagg.roster import Roster, guaranteed_honest, sign_roster, threshold_of, too_many_colluders

KEYS = {name: new_identity().public_key for name in ("cleveland", "hungary", "va")}
CONSORTIUM = new_identity()


def test_an_identity_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    identity = create_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_identity(path) == identity
    verify(identity.public_key, b"hello", load_identity(path).sign(b"hello"))


def test_an_identity_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    identity = create_identity(path)
    with pytest.raises(FileExistsError):
        create_identity(path)
    assert load_identity(path) == identity


def test_an_identity_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    create_identity(path)
    path.chmod(0o640)
    with pytest.raises(ValueError, match="0600"):
        load_identity(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    path.touch(mode=0o600)
    path.write_bytes(X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ValueError, match="Ed25519"):
        load_identity(path)


def test_a_wrong_signature_is_refused() -> None:
    identity, other = new_identity(), new_identity()
    for key, message, signature in (
        (other.public_key, b"hello", identity.sign(b"hello")),
        (identity.public_key, b"Hello", identity.sign(b"hello")),
        (identity.public_key, b"hello", identity.sign(b"hello")[:-1]),
        (b"short", b"hello", identity.sign(b"hello")),
    ):
        with pytest.raises(ValueError, match=r"signature|public key|key"):
            verify(key, message, signature)


def test_a_roster_survives_its_byte_form() -> None:
    roster = sign_roster(KEYS, CONSORTIUM)
    assert Roster.from_bytes(roster.to_bytes()) == roster
    assert roster.keys == KEYS
    assert [name for name, _ in roster.entries] == sorted(KEYS)


def test_every_changed_byte_of_a_roster_is_refused() -> None:
    body = sign_roster(KEYS, CONSORTIUM).to_bytes()
    for position in range(len(body)):
        changed = bytearray(body)
        changed[position] ^= 1
        with pytest.raises(ValueError):  # noqa: PT011  (which sentence depends on the byte)
            Roster.from_bytes(bytes(changed))


def test_a_roster_signed_by_another_is_another_consortiums() -> None:
    roster = sign_roster(KEYS, new_identity())
    assert Roster.from_bytes(roster.to_bytes()).consortium_public_key != CONSORTIUM.public_key


@pytest.mark.parametrize(
    "keys", [{}, {"": b"k" * 32}, {"a": b"k"}, {"a": b"k" * 32, "b": b"k" * 32}, {"a" * 256: b"k" * 32}]
)
def test_nonsense_is_not_signed_into_a_roster(keys: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"roster|name"):
        sign_roster(keys, CONSORTIUM)


def test_thresholds_are_more_than_two_thirds() -> None:
    assert [threshold_of(number) for number in (2, 3, 4, 5, 6, 7, 9, 10, 100)] == [2, 3, 3, 4, 5, 5, 7, 7, 67]


def test_what_a_roster_bears_is_what_it_bears_in_every_round_that_the_server_may_choose() -> None:
    for roster in range(1, 101):
        rounds = range(threshold_of(roster), roster + 1)  # so many may take part: the server's choice, not the sites'
        assert too_many_colluders(roster) == min(2 * threshold_of(part) - part for part in rounds)
    assert [too_many_colluders(number) - 1 for number in (3, 4, 5, 7, 10, 13, 100)] == [2, 1, 1, 2, 2, 3, 22]


def test_guaranteed_honest_sites_are_those_of_the_smallest_sum_without_as_many_as_may_collude() -> None:
    for roster in range(1, 101):
        smallest_sum, colluders = threshold_of(roster), too_many_colluders(roster) - 1
        assert guaranteed_honest(roster) == smallest_sum - colluders >= 1
    assert [guaranteed_honest(number) for number in (1, 2, 3, 4, 5, 7, 10, 13)] == [1, 1, 1, 2, 3, 3, 5, 6]


def test_a_longer_keystream_begins_with_the_shorter_one() -> None:
    long = keystream(b"k" * 32, bytes(16), 2 * CHUNK_BYTES + 5)
    for size in (0, 1, 15, 16, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5):
        assert keystream(b"k" * 32, bytes(16), size) == long[:size]


def test_keystreams_of_other_keys_and_nonces_are_others() -> None:
    one = keystream(b"k" * 32, bytes(16), 64)
    assert keystream(b"K" * 32, bytes(16), 64) != one
    assert keystream(b"k" * 32, b"\x01" + bytes(15), 64) != one


@pytest.mark.parametrize(
    ("key", "nonce", "size"), [(b"k", bytes(16), 1), (b"k" * 32, b"n", 1), (b"k" * 32, bytes(16), -1)]
)
def test_a_keystream_of_nonsense_is_refused(key: bytes, nonce: bytes, size: int) -> None:
    with pytest.raises(ValueError, match=r"key and nonce|num_bytes"):
        keystream(key, nonce, size)
