"""An institution's identity: an Ed25519 key, made on site, apart from the key of its transport."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key


@dataclass(frozen=True)
class Identity:
    """A private signing key; never printed, never sent."""

    private_key: bytes = field(repr=False)

    @property
    def public_key(self) -> bytes:
        """The public key, 32 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.private_key).public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign a message; 64 bytes (RFC 8032)."""
        return Ed25519PrivateKey.from_private_bytes(self.private_key).sign(message)


def new_identity() -> Identity:
    """Draw a fresh key from the operating system; the protocol also uses one for the transcripts of each round."""
    return Identity(Ed25519PrivateKey.generate().private_bytes_raw())


def create_identity(path: Path) -> Identity:
    """Make an institution's key and write it as a new PEM file that only its owner may read (0600).

    Raises:
        FileExistsError: there is a file already; an identity is never overwritten.
    """
    identity = new_identity()
    key = Ed25519PrivateKey.from_private_bytes(identity.private_key)
    body = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    return identity


def load_identity(path: Path) -> Identity:
    """Read an institution's key.

    Raises:
        ValueError: others may read the file, or it holds no Ed25519 key.
    """
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path.name} can be read by others: its mode must be 0600")
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path.name} must hold an Ed25519 key, got {type(key).__name__}")
    return Identity(key.private_bytes_raw())


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature.

    Raises:
        ValueError: the signature is not this key's signature of this message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature as error:
        raise ValueError("the signature is not this key's signature of this message") from error
