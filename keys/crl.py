"""Certificate revocation lists (RFC 5280 section 5) in PEM.

OpenSSL looks a certificate up in them in each handshake, and refuses every certificate of a CA
whose list it cannot use. ``check_revocation_lists`` finds such a list when the server starts.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from keys.errors import KeyFileError, UnusableKeyError
from keys.messages import utc
from keys.pem import INSIDE
from keys.pki import BACKDATED, CertifiedKey, load_ca

LIST_LIFETIME: Final = timedelta(days=90)
MAX_SERIAL: Final = (1 << 159) - 1
"""A serial number is positive and has at most 20 octets (RFC 5280 section 4.1.2.2)."""
_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----" + INSIDE + rb"-----END X509 CRL-----")


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """How many certificates are revoked, and when the first list has to be renewed."""

    revoked: int
    next_update: datetime


def check_revocation_lists(
    lists: bytes, certificates: bytes, now: datetime, name: str
) -> RevocationLists:
    """Check the lists of a PEM text against CA certificates; errors call the text ``name``.

    A list (1) is signed by one of the CAs, (2) is about all of its certificates, (3) says when it
    is renewed, and (4) is valid now. Raises KeyFileError for a text that is corrupt, and
    UnusableKeyError for a list that fails a check.
    """
    found_lists = load_lists(lists, name)
    try:
        authorities = x509.load_pem_x509_certificates(certificates)
        found = [_checked(crl, authorities, now, name) for crl in found_lists]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _not_intact(name) from error
    return RevocationLists(
        sum(entry.revoked for entry in found), min(entry.next_update for entry in found)
    )


def load_lists(lists: bytes, name: str) -> list[x509.CertificateRevocationList]:
    """Return every list of a PEM text. Raises KeyFileError."""
    return [_load(block, name) for block in _blocks(lists, name)]


def revoked_serials(lists: bytes, name: str) -> frozenset[int]:
    """Return the serial numbers in every list of a PEM text. Raises KeyFileError."""
    return frozenset(entry.serial_number for crl in load_lists(lists, name) for entry in crl)


def list_is_due(lists: bytes, now: datetime, name: str) -> bool:
    """Return whether a list of a PEM text has less than a third of its lifetime left.

    Raises KeyFileError.
    """
    for crl in load_lists(lists, name):
        due = crl.next_update_utc
        if due is None or due - now < (due - crl.last_update_utc) / 3:
            return True
    return False


def renewed_list(
    ca: CertifiedKey,
    lists: bytes,
    serials: Iterable[int],
    now: datetime,
    name: str,
    lifetime: timedelta = LIST_LIFETIME,
) -> bytes:
    """Return the lists of a PEM text, which can be empty, with that of the CA renewed.

    The new list has the entries of the old one and ``serials``, and is valid for ``lifetime``.
    Lists of other CAs do not change. Raises KeyFileError and UnusableKeyError.
    """
    issuer, key = load_ca(ca)
    others, number = [], 0
    entries: dict[int, x509.RevokedCertificate] = {}
    for block in _blocks(lists, name) if lists else []:
        crl = _load(block, name)
        if crl.issuer != issuer.subject:
            others.append(block + b"\n")
            continue
        if not _is_signed_by(crl, issuer):
            raise UnusableKeyError(f"{name} is not signed with tls/ca.key; restore it")
        _require_complete(crl, name)
        number = max(number, _number(crl))
        entries |= {entry.serial_number: entry for entry in crl}
    for serial in serials:
        added = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        entries.setdefault(serial, added.build())
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(now - BACKDATED).next_update(now + lifetime)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(authority, critical=False)
    builder = builder.add_extension(x509.CRLNumber(number + 1), critical=False)
    for entry in entries.values():
        builder = builder.add_revoked_certificate(entry)
    return b"".join(others) + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _blocks(lists: bytes, name: str) -> list[bytes]:
    blocks = _BLOCK.findall(lists)
    if not blocks or lists.count(b"-----BEGIN") != len(blocks):
        raise KeyFileError(
            f"{name} is not a PEM file of X509 CRLs; restore it, or remove it and revoke again"
        )
    return blocks


def _load(block: bytes, name: str) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_pem_x509_crl(block)
        # They are parsed on first access.
        _ = crl.extensions
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise _not_intact(name) from error
    return crl


def _not_intact(name: str) -> KeyFileError:
    return KeyFileError(f"{name} is not an intact list; restore it, or remove it and revoke again")


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def _checked(
    crl: x509.CertificateRevocationList,
    authorities: Sequence[x509.Certificate],
    now: datetime,
    name: str,
) -> RevocationLists:
    # 1.
    if not any(_is_signed_by(crl, authority) for authority in authorities):
        raise UnusableKeyError(
            f"{name} is not signed by the CA of client certificates; sign it with the key of "
            "tls/ca.crt"
        )
    # 2.
    _require_complete(crl, name)
    # 3.
    due = crl.next_update_utc
    if due is None:
        raise UnusableKeyError(f"{name} does not say when it is renewed; make it with a nextUpdate")
    # 4.
    if not crl.last_update_utc <= now <= due:
        raise UnusableKeyError(
            f"{name} is valid from {utc(crl.last_update_utc)} to {utc(due)}, and it is {utc(now)}; "
            "run `leeway cert renew ca.crl`"
        )
    return RevocationLists(len(crl), due)


def _require_complete(crl: x509.CertificateRevocationList, name: str) -> None:
    for extension in crl.extensions:
        if extension.critical:
            raise UnusableKeyError(
                f"{name} has the critical extension {extension.oid.dotted_string}, as lists of a "
                "part of the certificates have; make a complete list"
            )


def _is_signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if crl.issuer != authority.subject:
        return False
    try:
        usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        can_sign = True
    else:
        can_sign = usage.crl_sign
    key = authority.public_key()
    # The type includes keys that cannot sign.
    return can_sign and crl.is_signature_valid(key)  # type: ignore[arg-type]
