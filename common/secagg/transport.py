"""The key of a site's transport, which opens the operator's gate and nothing else: EC P-384 in OpenSSH's form."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from common.files import write_secret


def create_transport_key(path: Path) -> str:
    """Make a transport key, in a new file that only its owner may read (0600).

    Returns:
        The public half, one line in OpenSSH's form: what the operator registers.

    Raises:
        FileExistsError: there is a file already; a key is never overwritten.
    """
    key = generate_private_key(SECP384R1())
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
