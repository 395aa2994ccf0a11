"""The consortium's own certificate authority, and the certificates of its gate and its SuperLink."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
_CLOCKS_DIFFER = timedelta(hours=1)


@dataclass(frozen=True)
class Certified:
    """A private key and its certificate, both PEM."""

    key: bytes
    certificate: bytes


def new_authority(consortium: str) -> Certified:
    """Make an authority that can certify servers, and nothing below them."""
    key = generate_private_key(SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{consortium} authority"[:64])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = _begun(name, name, key, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Certified(_pem(key), builder.sign(key, SHA384()).public_bytes(Encoding.PEM))


def certify(authority: Certified, names: Sequence[str], *, days: float) -> Certified:
    """Make a server's key and certificate.

    Args:
        authority: who signs.
        names: host names and IP addresses that the server is reached by; the first is its common name.
        days: how long it is valid.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = load_pem_private_key(authority.key, password=None)
    if not isinstance(signer, EllipticCurvePrivateKey):
        raise ValueError("the authority's key is no elliptic-curve key")
    key = generate_private_key(SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = _begun(subject, issuer.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(identifier, critical=False)
    return Certified(_pem(key), builder.sign(signer, SHA384()).public_bytes(Encoding.PEM))


def days_left(certificate: bytes) -> float:
    """Tell how long a certificate is still valid, in days; negative: it has expired."""
    ends = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return (ends - datetime.now(UTC)).total_seconds() / 86_400


def _begun(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _CLOCKS_DIFFER)
    return builder.not_valid_after(now + timedelta(days=days))


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
