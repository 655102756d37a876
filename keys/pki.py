"""Certificates of a data directory: a CA of its own, and what it signs (RFC 5280).

Keys are P-256. The CA is good for ten years, everything else for one, as with kubeadm. Every
certificate starts five minutes in the past, so that a clock that is a little behind accepts it.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keys.errors import KeyFileError, UnusableKeyError
from keys.pem import private_key_pem

CA_LIFETIME: Final = timedelta(days=3650)
LEAF_LIFETIME: Final = timedelta(days=365)
# RFC 1123 section 2.1, with a wildcard in front where there is one.
_HOST_NAME = re.compile(
    r"(?:\*\.)?(?:[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?\.)*"
    r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
)
_BACKDATED: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    private_key: bytes

    def __repr__(self) -> str:
        return "CertifiedKey(...)"


def make_ca(common_name: str, now: datetime) -> CertifiedKey:
    """Make a certificate authority that may sign leaf certificates and nothing below them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _builder(name, name, key.public_key(), now, CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(ca=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return CertifiedKey(certificate.public_bytes(Encoding.PEM), private_key_pem(key))


def make_server_certificate(
    ca: CertifiedKey, common_name: str, hosts: Sequence[str], now: datetime
) -> CertifiedKey:
    """Make a certificate for TLS servers, good for the given DNS names and IP addresses.

    Raises UnusableKeyError for a host that is neither.
    """
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    return _make_leaf(ca, common_name, ExtendedKeyUsageOID.SERVER_AUTH, names, now)


def make_client_certificate(ca: CertifiedKey, common_name: str, now: datetime) -> CertifiedKey:
    """Make a certificate for TLS clients; its common name is the user."""
    return _make_leaf(ca, common_name, ExtendedKeyUsageOID.CLIENT_AUTH, [], now)


def _make_leaf(
    ca: CertifiedKey,
    common_name: str,
    usage: x509.ObjectIdentifier,
    names: list[x509.GeneralName],
    now: datetime,
) -> CertifiedKey:
    try:
        issuer = x509.load_pem_x509_certificate(ca.certificate)
        issuer_key = load_pem_private_key(ca.private_key, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError("tls/ca.crt or tls/ca.key is not whole; restore it") from error
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise UnusableKeyError("tls/ca.key is not an elliptic-curve key; use one for P-256")
    if issuer.public_key() != issuer_key.public_key():
        raise UnusableKeyError("tls/ca.key is not the key of tls/ca.crt; restore the pair")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(common_name), issuer.subject, key.public_key(), now, LEAF_LIFETIME)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_key_usage(ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(authority, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    return CertifiedKey(certificate.public_bytes(Encoding.PEM), private_key_pem(key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise UnusableKeyError(
            f"host {host[:64]!r} is neither a DNS name nor an IP address; use its ASCII form"
        )
    return x509.DNSName(host)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
