"""The certificates of a data directory: its own CA, and the certificates of servers and clients.

Keys are P-256. As with kubeadm, the CA is valid for ten years, and the certificates that it signs
for one year by default, but never longer than the CA. Every certificate is valid from five minutes
ago, so that a clock that is a little behind accepts it. Source: RFC 5280.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keys.errors import KeyFileError, UnusableKeyError
from keys.messages import utc
from keys.pem import private_key_pem

CA_LIFETIME: Final = timedelta(days=3650)
LEAF_LIFETIME: Final = timedelta(days=365)
# RFC 1123 section 2.1, with an optional wildcard.
_HOST_NAME = re.compile(
    r"(?:\*\.)?(?:[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?\.)*"
    r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
)
BACKDATED: Final = timedelta(minutes=5)
# RFC 5280 appendix A.1, ``ub-common-name``.
MAX_COMMON_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    private_key: bytes

    def __repr__(self) -> str:
        return "CertifiedKey(...)"


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The content of a certificate.

    ``common_name`` is empty if the subject has none or several; ``hosts`` are DNS names and IP
    addresses in their order.
    """

    serial: int
    common_name: str
    is_ca: bool
    is_for_servers: bool
    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    @property
    def lifetime(self) -> timedelta:
        """The lifetime that the certificate was made with."""
        return self.not_after - self.not_before - BACKDATED


def read_certificate(pem: bytes, name: str) -> CertificateFacts:
    """Read the first certificate of a PEM text, which errors call ``name``.

    Raises KeyFileError if there is no certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extensions = certificate.extensions
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        raise KeyFileError(f"{name} is not a PEM certificate; restore it") from error
    is_ca, is_for_servers = False, False
    hosts: list[str] = []
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            is_ca = value.ca
        elif isinstance(value, x509.ExtendedKeyUsage):
            is_for_servers = ExtendedKeyUsageOID.SERVER_AUTH in value
        elif isinstance(value, x509.SubjectAlternativeName):
            kinds = (x509.DNSName, x509.IPAddress)
            hosts = [str(entry.value) for entry in value if isinstance(entry, kinds)]
    return CertificateFacts(
        serial=certificate.serial_number,
        common_name=str(names[0].value) if len(names) == 1 else "",
        is_ca=is_ca,
        is_for_servers=is_for_servers,
        hosts=tuple(hosts),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def is_issued_by(pem: bytes, ca: bytes) -> bool:
    """Return whether a CA, a PEM certificate, has signed the first certificate of a text."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def load_ca(ca: CertifiedKey) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the certificate and the private key of a CA.

    Raises KeyFileError if one cannot be read, UnusableKeyError if they are not a pair.
    """
    try:
        issuer = x509.load_pem_x509_certificate(ca.certificate)
        issuer_key = load_pem_private_key(ca.private_key, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError("tls/ca.crt or tls/ca.key is corrupt; restore it") from error
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise UnusableKeyError("tls/ca.key is not an elliptic-curve key; use one for P-256")
    if issuer.public_key() != issuer_key.public_key():
        raise UnusableKeyError("tls/ca.key is not the key of tls/ca.crt; restore the pair")
    return issuer, issuer_key


def make_ca(common_name: str, now: datetime) -> CertifiedKey:
    """Make a certificate authority that can sign leaf certificates only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _builder(name, name, key.public_key(), now, CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(ca=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return CertifiedKey(certificate.public_bytes(Encoding.PEM), private_key_pem(key))


def make_server_certificate(
    ca: CertifiedKey,
    common_name: str,
    hosts: Sequence[str],
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
) -> CertifiedKey:
    """Make a certificate for TLS servers with the given DNS names and IP addresses.

    Raises UnusableKeyError for a host that is neither.
    """
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    return _make_leaf(ca, common_name, ExtendedKeyUsageOID.SERVER_AUTH, names, now, lifetime)


def make_client_certificate(
    ca: CertifiedKey, common_name: str, now: datetime, lifetime: timedelta = LEAF_LIFETIME
) -> CertifiedKey:
    """Make a certificate for TLS clients, whose common name is the user.

    Raises UnusableKeyError for a name that a certificate cannot have.
    """
    if not 0 < len(common_name) <= MAX_COMMON_NAME or not common_name.isprintable():
        raise UnusableKeyError(
            f"a certificate cannot be for the name {common_name[:MAX_COMMON_NAME]!a} of "
            f"{len(common_name)} characters; 1 to {MAX_COMMON_NAME} printable ones are allowed"
        )
    return _make_leaf(ca, common_name, ExtendedKeyUsageOID.CLIENT_AUTH, [], now, lifetime)


def _make_leaf(
    ca: CertifiedKey,
    common_name: str,
    usage: x509.ObjectIdentifier,
    names: list[x509.GeneralName],
    now: datetime,
    lifetime: timedelta,
) -> CertifiedKey:
    issuer, issuer_key = load_ca(ca)
    lifetime = min(lifetime, issuer.not_valid_after_utc - now)
    if lifetime <= timedelta():
        raise UnusableKeyError(
            f"tls/ca.crt expired at {utc(issuer.not_valid_after_utc)}; move tls/ and "
            "kubeconfig/ away, and make others with `leeway init`"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(common_name), issuer.subject, key.public_key(), now, lifetime)
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
        .not_valid_before(now - BACKDATED)
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
