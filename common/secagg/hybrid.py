"""Key agreement by X25519, alone or together with ML-KEM-768, so that who breaks one of the two opens nothing.

A public key is X25519's (32 bytes), behind which post-quantum ML-KEM-768's stands (1184 bytes). Which of the two it is,
its length says; what length it must have, the version of the advert that carries it.

Source: FIPS 203 for ML-KEM; the secrets go into one key derivation one after the other, as in RFC 9370 and SP 800-56C.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from common.secagg.errors import ProtocolError
from common.secagg.keys import KEY_BYTES, agree, derive, public_key_of

CIPHERTEXT_BYTES = 1088
_KEM_PUBLIC_BYTES = 1184
# The u-coordinates of order 1, 2, 4 and 8, also not reduced: with these there is no secret (Bernstein 2006).
_FIELD = 2**255 - 19
_LOW_ORDER = {
    *(0, 1, _FIELD - 1, _FIELD, _FIELD + 1),
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}
_KEM_LABELS = (b"ml-kem-768 d", b"ml-kem-768 z")  # the two halves of the seed in FIPS 203


def public_key(secret: bytes, *, post_quantum: bool) -> bytes:
    """Give the public key of a secret.

    Guarantees:
        one way: with `post_quantum`, all private keys are derived from the secret, so that it takes more than
            solving for X25519's private key to find the secret, and with it ML-KEM's.
    """
    if not post_quantum:
        return public_key_of(secret)
    return public_key_of(_x25519(secret)) + _kem(secret).public_key().public_bytes_raw()


def check_public_key(public: bytes, *, post_quantum: bool) -> bytes:
    """Give a public key back if others can agree on keys with it (RFC 7748, section 6.1; FIPS 203, section 7.2).

    Raises:
        ValueError: its length is not the one that `post_quantum` asks for, its X25519 part is of low order, or its
            ML-KEM part is malformed.
    """
    length = KEY_BYTES + (_KEM_PUBLIC_BYTES if post_quantum else 0)
    if len(public) != length:
        raise ValueError(f"a public key must have {length} bytes, got {len(public)}")
    if int.from_bytes(public[:KEY_BYTES], "little") % 2**255 in _LOW_ORDER:  # the top bit is ignored
        raise ValueError("a public key is a point of low order")
    if post_quantum:
        MLKEM768PublicKey.from_public_bytes(public[KEY_BYTES:])
    return public


def exchange(secret: bytes, public: bytes) -> bytes:
    """Agree by X25519 alone on a secret with the owner of a public key.

    Raises:
        ProtocolError: the public key is no usable point (key).
    """
    return agree(secret if len(public) == KEY_BYTES else _x25519(secret), public[:KEY_BYTES])


def send(secret: bytes, public: bytes) -> tuple[bytes, bytes]:
    """Agree on a secret with the owner of a public key, who needs the ciphertext for it (none for X25519 alone).

    The secret is the input of a key derivation and no key: X25519's and ML-KEM's, one after the other.

    Raises:
        ProtocolError: the public key cannot be used (key).
    """
    agreed = exchange(secret, public)
    if len(public) == KEY_BYTES:
        return agreed, b""
    try:
        encapsulated, ciphertext = MLKEM768PublicKey.from_public_bytes(public[KEY_BYTES:]).encapsulate()
    except ValueError as error:
        raise ProtocolError("key", "a peer's ML-KEM key cannot be used") from error
    return agreed + encapsulated, ciphertext


def receive(secret: bytes, public: bytes, ciphertext: bytes) -> bytes:
    """Agree on what the owner of a public key agreed on by `send`.

    A ciphertext that was changed gives another secret and no error: whoever calls this must check what comes of it.

    Raises:
        ProtocolError: the public key is no usable point (key), or the ciphertext is none (ciphertext).
    """
    agreed = exchange(secret, public)
    if len(public) == KEY_BYTES:
        return agreed
    try:
        return agreed + _kem(secret).decapsulate(ciphertext)
    except ValueError as error:
        raise ProtocolError("ciphertext", "an ML-KEM ciphertext is malformed") from error


def _x25519(secret: bytes) -> bytes:
    return derive(secret, b"x25519")


def _kem(secret: bytes) -> MLKEM768PrivateKey:
    return MLKEM768PrivateKey.from_seed_bytes(b"".join(derive(secret, label) for label in _KEM_LABELS))
