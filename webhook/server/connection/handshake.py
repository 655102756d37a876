"""TLS handshakes of the listening port: none resumes a session; why one has failed.

Invariant: a handshake is complete only if it was a full one, in which the client's certificate was
checked against the CA and the list of revoked certificates of that moment. OpenSSL keeps the
sessions of TLS 1.2 whatever the options say, and Python has no setting for it: so a handshake that
resumes one is aborted before the server has answered.
"""

import ssl
from contextlib import suppress
from typing import Any, Final

from webhook.errors import HandshakeFailure
from webhook.server.connection.client_trust import ClientTrust

# From the client, as far as OpenSSL can tell: alert (21), TLS 1.2, two bytes: fatal (2),
# handshake_failure (40). RFC 5246 section 7.2.
_FATAL_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x28"


# openssl/x509_vfy.h.
_VERIFY_CODES: Final = {
    **dict.fromkeys((2, 7, 18, 19, 20, 21), HandshakeFailure.CERTIFICATE_UNTRUSTED),
    **dict.fromkeys(
        (3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44, 54), HandshakeFailure.REVOCATION_LIST
    ),
    9: HandshakeFailure.CERTIFICATE_NOT_YET_VALID,
    10: HandshakeFailure.CERTIFICATE_EXPIRED,
    23: HandshakeFailure.CERTIFICATE_REVOKED,
    26: HandshakeFailure.CERTIFICATE_NOT_FOR_CLIENTS,
}
_REASONS: Final = (
    dict.fromkeys(
        ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "BAD_RECORD_TYPE"),
        HandshakeFailure.NOT_TLS,
    )
    | dict.fromkeys(
        ("NO_SHARED_CIPHER", "NO_SUITABLE_KEY_SHARE", "NO_SHARED_SIGNATURE_ALGORITHMS"),
        HandshakeFailure.NO_COMMON_VERSION,
    )
    | dict.fromkeys(("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"), HandshakeFailure.NO_COMMON_VERSION)
)
_ADVICE: Final = {
    HandshakeFailure.CERTIFICATE_EXPIRED: "; renew it",
    HandshakeFailure.CERTIFICATE_UNTRUSTED: "; use one that the CA in tls/ca.crt has signed",
    HandshakeFailure.CERTIFICATE_NOT_FOR_CLIENTS: "; use one for clients (clientAuth)",
    HandshakeFailure.REVOCATION_LIST: "; renew tls/ca.crl",
    HandshakeFailure.NOT_TLS: "; only https is served",
}
_ALERTS_ABOUT_OURS: Final = ("certificate", "unknown ca")


class SessionResumedError(ssl.SSLError):
    """A handshake that resumes a session."""


class ServerContext(ssl.SSLContext):
    """A context for servers whose connections all begin with a full handshake.

    ``trust`` is what client certificates are checked against.
    """

    trust: ClientTrust = ClientTrust(b"", b"")

    def wrap_bio(self, incoming: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Make the TLS of a connection, as asyncio and uvloop do."""
        made = super().wrap_bio(incoming, *args, **kwargs)
        if isinstance(made, _Handshake):
            made.incoming = incoming
        return made


class _Handshake(ssl.SSLObject):
    incoming: ssl.MemoryBIO

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises SessionResumedError and other ssl.SSLErrors."""
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            if self.session_reused:
                self._call_off()
            raise
        if self.session_reused:
            self._call_off()

    def _call_off(self) -> None:
        # OpenSSL forgets a session at a fatal alert, so the client's next handshake is a full one.
        self.incoming.write(_FATAL_ALERT)
        with suppress(ssl.SSLError):
            super().do_handshake()
        raise SessionResumedError("a session was resumed")


ServerContext.sslobject_class = _Handshake


def failure_of(error: OSError) -> tuple[HandshakeFailure, str]:
    """Return why a handshake failed, as a label and as a sentence.

    An error that is not one of TLS is taken for a client that left, or took too long.
    """
    if isinstance(error, SessionResumedError):
        why = "the client resumed a session, which is not served; its next handshake is a full one"
        return HandshakeFailure.SESSION_RESUMED, why
    if isinstance(error, ssl.SSLCertVerificationError):
        failure = _VERIFY_CODES.get(error.verify_code, HandshakeFailure.CERTIFICATE_REFUSED)
        why = f"the client's certificate is not accepted: {error.verify_message}"
        return failure, why + _ADVICE.get(failure, "")
    if not isinstance(error, ssl.SSLError):
        return HandshakeFailure.UNFINISHED, "the client left, or took too long"
    reason = error.reason or "unknown"
    words = reason.lower().replace("_", " ")
    if "ALERT" in reason:
        alert = words.rpartition("alert ")[2]
        why = f"the client called it off with the alert {alert!r}"
        if any(word in alert for word in _ALERTS_ABOUT_OURS):
            why += "; give it this server's tls/ca.crt, and see that the certificate has its name"
        return HandshakeFailure.REFUSED_BY_CLIENT, why
    failure = _REASONS.get(reason, HandshakeFailure.OTHER)
    return failure, f"TLS failed: {words}" + _ADVICE.get(failure, "")
