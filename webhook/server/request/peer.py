"""Who the client is by its certificate."""

from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

TLS_1_2 = 0x0303


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What of a client certificate decides who the caller is; times are Unix seconds.

    ``common_name`` is empty where the subject has none, or more than one.
    """

    common_name: str
    not_before: float
    not_after: float


@lru_cache(maxsize=1024)
def peer_certificate(pem: str) -> PeerCertificate:
    """Parse a client certificate that the handshake has verified."""
    certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return PeerCertificate(
        common_name=str(names[0].value) if len(names) == 1 else "",
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )
