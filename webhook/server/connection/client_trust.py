"""Checks the client certificates of open connections again when the CAs or lists change.

Invariant: a certificate that was revoked, or whose CA is no longer trusted, is never accepted. Of
the checks of a handshake only those are repeated that depend on files: the CAs and the lists.
"""

from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from keys.crl import load_lists


@dataclass(frozen=True)
class ClientTrust:
    """The CAs of client certificates, and the lists of revoked ones, empty for none; both PEM."""

    authorities: bytes
    lists: bytes

    def accepts(self, pem: str) -> bool:
        """Return whether a handshake would accept a certificate again.

        False also for one of an intermediate CA, which is not at hand: the next handshake decides.
        """
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
            return self._has_issued(certificate) and not self._has_revoked(certificate)
        except Exception:  # What cannot be judged is not accepted.
            return False

    def _has_issued(self, certificate: x509.Certificate) -> bool:
        for authority in self._authorities:
            try:
                certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                continue
            return True
        return False

    def _has_revoked(self, certificate: x509.Certificate) -> bool:
        # With lists in use, OpenSSL accepts no certificate of a CA that has none.
        own = [crl for crl in self._lists if crl.issuer == certificate.issuer]
        serial = certificate.serial_number
        revoked = (crl.get_revoked_certificate_by_serial_number(serial) for crl in own)
        return bool(self.lists) and (not own or any(entry is not None for entry in revoked))

    @cached_property
    def _authorities(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.authorities)

    @cached_property
    def _lists(self) -> list[x509.CertificateRevocationList]:
        return load_lists(self.lists, "ca.crl") if self.lists else []
