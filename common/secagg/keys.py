"""Keys that two sites agree on, keys derived from secrets, and boxes that only one site can open."""

from __future__ import annotations

import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.secagg.errors import ProtocolError
from common.secagg.layout import join

PROTOCOL = b"fedmosaic/secagg/1"
KEY_BYTES = 32
_NONCE_BYTES = 12


def public_key_of(private_key: bytes) -> bytes:
    """Give the X25519 public key of a private key (32 bytes each)."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def agree(private_key: bytes, public_key: bytes) -> bytes:
    """Agree on a secret with the owner of a public key.

    Raises:
        ProtocolError: the public key is no usable point (key).
    Source: RFC 7748, section 6.1, with the check for the all-zero secret.
    """
    try:
        return _loaded(private_key).exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        raise ProtocolError("key", "a peer's X25519 key is no usable point") from error


def derive(secret: bytes, purpose: bytes, *context: bytes) -> bytes:
    """Derive a 32-byte key for one purpose in one context, salted with the protocol's name.

    Source: RFC 5869 with SHA-256.
    """
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=PROTOCOL, info=join([purpose, *context])).derive(secret)


def seal(key: bytes, message: bytes, associated: bytes) -> bytes:
    """Encrypt and authenticate a message; the nonce stands in front."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, message, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Open what `seal` made.

    Raises:
        ProtocolError: it was made with another key or other associated data, or was changed (ciphertext).
    """
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated)
    except (InvalidTag, ValueError) as error:
        raise ProtocolError("ciphertext", "a sealed share does not open") from error


@lru_cache(maxsize=2)
def _loaded(private_key: bytes) -> X25519PrivateKey:
    """The key, ready for use: that takes as long as an exchange, and a site does hundreds in a row with each of two."""
    return X25519PrivateKey.from_private_bytes(private_key)
