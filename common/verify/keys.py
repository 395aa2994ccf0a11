"""Ed25519 signatures, and where a site's key may be known from outside its ledger: a roster of the consortium."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from common.verify.read import LedgerUnreadable

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_ROSTER = b"fedmosaic/roster/1"
_LENGTH_BYTES = 4
_ROSTER_FIELDS = 4


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this key signed this message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def roster_keys(path: Path) -> dict[str, str]:
    """Read the institutions' keys, in hex, from a roster that the consortium signed (docs/ledger.md has its form).

    Raises:
        LedgerUnreadable: it cannot be read, is no roster, or its signature is wrong.
    """
    try:
        context, consortium, signature, body = _fields(path.read_bytes())
        parts = _fields(body)
        names = [name.decode() for name in parts[::2]]
    except (OSError, ValueError) as error:
        raise LedgerUnreadable(f"{path} is no roster ({error}): give the file that the consortium signed") from error
    signed = _join([_ROSTER, _join(parts)])
    if context != _ROSTER or len(parts) % 2 or not is_signed(consortium, signed, signature):
        raise LedgerUnreadable(f"{path} is no roster that its consortium signed: ask the consortium for it again")
    return {name: key.hex() for name, key in zip(names, parts[1::2], strict=True)}


def _fields(raw: bytes) -> list[bytes]:
    """Take fields apart, each behind its length in four bytes."""
    fields, start = [], 0
    while start < len(raw):
        first = start + _LENGTH_BYTES
        start = first + int.from_bytes(raw[start:first], "big")
        if start > len(raw) or first > len(raw):
            raise ValueError("it ends within a field")
        fields.append(raw[first:start])
    return fields


def _join(fields: list[bytes]) -> bytes:
    return b"".join(len(field).to_bytes(_LENGTH_BYTES, "big") + field for field in fields)
