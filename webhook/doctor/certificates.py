"""Checks the certificates of a data directory as their verifiers do (RFC 5280).

``now`` has a time zone. Every function raises KeyFileError for a text that is not a certificate.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keys.crl import check_revocation_lists
from keys.errors import KeyFileError
from keys.messages import utc
from webhook.doctor.findings import Verdict, failure, ok, warning

EXPIRES_SOON: Final = timedelta(days=30)
LIST_ENDS_SOON: Final = timedelta(days=7)
_MAX_CHAIN: Final = 8
SERVER_USAGE: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_USAGE: Final = ExtendedKeyUsageOID.CLIENT_AUTH
_USAGE_NAMES: Final = {SERVER_USAGE: "serverAuth", CLIENT_USAGE: "clientAuth"}


def load_certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    """Parse a PEM text of certificates; ``name`` is its name in errors. Raises KeyFileError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise KeyFileError(f"{name} is not a PEM file of complete certificates") from error


def check_ca(pem: bytes, name: str, now: datetime, fix: str) -> Verdict:
    """Check that every certificate is that of a CA, and its dates."""
    certificates = load_certificates(pem, name)
    for certificate in certificates:
        try:
            found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        except x509.ExtensionNotFound:
            is_ca = False
        else:
            is_ca = found.value.ca
        if not is_ca:
            finding = f"{name} holds the certificate of {_subject(certificate)}, which is not a CA"
            return failure(finding, fix)
    problem = check_dates(certificates[0], name, now, fix)
    return problem or ok(f"good until {_date(certificates[0].not_valid_after_utc)}")


def check_leaf(
    pem: bytes,
    private_key: bytes,
    ca: bytes,
    usage: x509.ObjectIdentifier,
    now: datetime,
    name: str,
    fix: str,
    common_name: str = "",
    *,
    renew: str = "",
) -> Verdict:
    """Check a certificate for ``usage``: its key, chain, usage, name and dates, in this order.

    Intermediate certificates follow it in ``pem``. ``common_name`` is what its only CN must be,
    empty for any. ``fix`` is the command to suggest, ``renew`` the one if only the dates are wrong.
    Raises KeyFileError.
    """
    leaf, *intermediates = load_certificates(pem, name)
    try:
        private = load_pem_private_key(private_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"the private key of {name} is corrupt or encrypted") from error
    if private.public_key() != leaf.public_key():
        return failure(f"the private key of {name} is that of another certificate", fix)
    if not is_signed_by(leaf, intermediates, load_certificates(ca, "tls/ca.crt")):
        return failure(f"{name} is not signed by the CA in tls/ca.crt", fix)
    if not _may_be_used_for(leaf, usage):
        return failure(f"{name} lacks the extended key usage {_USAGE_NAMES[usage]}", fix)
    names = [str(a.value) for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if common_name and names != [common_name]:
        return failure(f"{name} is that of user {' and '.join(names)!r}, not {common_name!r}", fix)
    problem = check_dates(leaf, name, now, renew or fix)
    return problem or ok(f"good until {_date(leaf.not_valid_after_utc)}, signed by tls/ca.crt")


def check_dates(
    certificate: x509.Certificate, name: str, now: datetime, fix: str
) -> Verdict | None:
    """Return what is wrong with a certificate's dates, None if nothing is."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        wait = "wait, or set the clock of this machine right with `chronyc makestep`"
        return failure(f"{name} is not valid before {_date(begins)}, and it is {_date(now)}", wait)
    if now > ends:
        return failure(f"{name} expired on {_date(ends)}, and it is {_date(now)}", fix)
    if ends - now < EXPIRES_SOON:
        return warning(f"{name} expires on {_date(ends)}, in {(ends - now).days} days", fix)
    return None


def check_hosts(pem: bytes, name: str, hosts: Iterable[str], fix: str) -> Verdict:
    """Check that a server's certificate is valid for every host clients use (RFC 9525)."""
    dns, addresses = names_of(load_certificates(pem, name)[0])
    missing = [host for host in dict.fromkeys(hosts) if not _covers(dns, addresses, host)]
    known = ", ".join([*dns, *addresses]) or "no name at all"
    if missing:
        return failure(f"{name} is for {known}, not for {', '.join(missing)}", fix)
    return ok(f"for {known}")


def names_of(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """Return the DNS names and the IP addresses that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    dns = found.get_values_for_type(x509.DNSName)
    return dns, [str(address) for address in found.get_values_for_type(x509.IPAddress)]


def check_crl(crl: bytes, ca: bytes, now: datetime, name: str, fix: str) -> Verdict:
    """Check a list of revoked certificates. Raises KeyFileError or UnusableKeyError."""
    found = check_revocation_lists(crl, ca, now, name)
    if found.next_update - now < LIST_ENDS_SOON:
        ends = utc(found.next_update)
        return warning(
            f"{name} expires at {ends}; no client certificate is accepted after that", fix
        )
    return ok(f"{found.revoked} revoked, good until {_date(found.next_update)}")


def is_signed_by(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
) -> bool:
    """Return whether a chain of signatures leads from a certificate to one of the CAs."""
    certificate = leaf
    for _ in range(_MAX_CHAIN):
        if any(_is_issued_by(certificate, authority) for authority in authorities):
            return True
        issuer = next((i for i in intermediates if _is_issued_by(certificate, i)), None)
        if issuer is None:
            return False
        certificate = issuer
    return False


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _may_be_used_for(certificate: x509.Certificate, usage: x509.ObjectIdentifier) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage in found or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in found


def _covers(dns: Sequence[str], addresses: Sequence[str], host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) in addresses
    except ValueError:
        pass
    host = host.lower()
    parent = host.partition(".")[2]
    return any(n.lower() == host or (parent and n.lower() == f"*.{parent}") for n in dns)


def _subject(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
