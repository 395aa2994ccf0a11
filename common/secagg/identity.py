"""An institution's identity: an Ed25519 key, made on site, apart from the key of its transport."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from common.files import write_secret

# The variable that names it: a file of mode 0600, or 0400 as systemd's credentials are.
PASSPHRASE_FILE = "FEDMOSAIC_PASSPHRASE_FILE"  # noqa: S105  (no passphrase itself)
_ENCRYPTED = b"ENCRYPTED PRIVATE KEY"


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

    Where the environment names a passphrase (`PASSPHRASE_FILE`), the file is encrypted with it.

    Raises:
        FileExistsError: there is a file already; an identity is never overwritten.
        ValueError: the passphrase cannot be used.
    """
    identity, passphrase = new_identity(), _passphrase()
    sealing = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    key = Ed25519PrivateKey.from_private_bytes(identity.private_key)
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing))
    return identity


def load_identity(path: Path) -> Identity:
    """Read an institution's key.

    Raises:
        ValueError: others may read the file, it holds no Ed25519 key, or it is encrypted and its passphrase is missing
            or wrong.
    """
    body = _read_secret(path)
    passphrase = _passphrase() if _ENCRYPTED in body else None
    if _ENCRYPTED in body and passphrase is None:
        raise ValueError(f"{path.name} is encrypted: name the file with its passphrase in {PASSPHRASE_FILE}")
    key = load_pem_private_key(body, password=passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path.name} must hold an Ed25519 key, got {type(key).__name__}")
    return Identity(key.private_bytes_raw())


def _passphrase() -> bytes | None:
    """The passphrase that the environment names; None: it names none."""
    named = os.environ.get(PASSPHRASE_FILE)
    if not named:
        return None
    passphrase = _read_secret(Path(named)).strip()
    if not passphrase:
        raise ValueError(f"{named} holds no passphrase")
    return passphrase


def _read_secret(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path.name} can be read by others: its mode must be 0600")
    return path.read_bytes()


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature.

    Raises:
        ValueError: the signature is not this key's signature of this message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature as error:
        raise ValueError("the signature is not this key's signature of this message") from error
