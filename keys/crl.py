"""Certificate revocation lists (RFC 5280 section 5) in PEM.

OpenSSL looks a certificate up in them in each handshake, and refuses every certificate of a CA
whose list it cannot use. What is checked here is whether it can, so that this is said at the start.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from keys.errors import KeyFileError, UnusableKeyError

_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.S)


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """How many certificates are revoked, and when the first list is due to be renewed."""

    revoked: int
    next_update: datetime


def check_revocation_lists(
    lists: bytes, certificates: bytes, now: datetime, name: str
) -> RevocationLists:
    """Check every list of a PEM text against the CAs of another; ``name`` stands for it in errors.

    Raises KeyFileError for a text that is not whole, UnusableKeyError for a list of another CA, one
    that is not valid now, and one for a part of the certificates only.
    """
    blocks = _BLOCK.findall(lists)
    if not blocks or lists.count(b"-----BEGIN") != len(blocks):
        raise KeyFileError(f"{name} is no PEM file of X509 CRLs; make it anew")
    try:
        authorities = x509.load_pem_x509_certificates(certificates)
        found = [_checked(block, authorities, now, name) for block in blocks]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{name} is not whole; make it anew") from error
    return RevocationLists(
        sum(entry.revoked for entry in found), min(entry.next_update for entry in found)
    )


def _checked(
    block: bytes, authorities: Sequence[x509.Certificate], now: datetime, name: str
) -> RevocationLists:
    crl = x509.load_pem_x509_crl(block)
    if not any(_is_signed_by(crl, authority) for authority in authorities):
        raise UnusableKeyError(
            f"{name} is not signed by the CA of client certificates; sign it with the key of "
            "tls/ca.crt"
        )
    for extension in crl.extensions:
        if extension.critical:
            raise UnusableKeyError(
                f"{name} has the critical extension {extension.oid.dotted_string}, as lists of a "
                "part of the certificates have; make a whole list"
            )
    due = crl.next_update_utc
    if due is None:
        raise UnusableKeyError(f"{name} does not say when it is renewed; make it with a nextUpdate")
    if not crl.last_update_utc <= now <= due:
        raise UnusableKeyError(
            f"{name} is valid from {crl.last_update_utc:%Y-%m-%dT%H:%M:%SZ} to "
            f"{due:%Y-%m-%dT%H:%M:%SZ}, and it is {now:%Y-%m-%dT%H:%M:%SZ}; make it anew"
        )
    return RevocationLists(len(crl), due)


def _is_signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if crl.issuer != authority.subject:
        return False
    try:
        usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        may_sign = True
    else:
        may_sign = usage.crl_sign
    key = authority.public_key()
    # The types allow keys that sign nothing.
    return may_sign and crl.is_signature_valid(key)  # type: ignore[arg-type]
