"""TLS handshakes of the listening port: no session is resumed.

Invariant: a handshake is complete only if it was a full one, in which the client's certificate was
checked against the CA and the list of revoked certificates of that moment. OpenSSL keeps the
sessions of TLS 1.2 whatever the options say, and Python has no setting for it: so a handshake that
resumes one is called off before the server has answered.
"""

import ssl
from contextlib import suppress
from typing import Final

# From the client, as far as OpenSSL can tell: alert (21), TLS 1.2, two bytes: fatal (2),
# handshake_failure (40). RFC 5246 section 7.2.
_FATAL_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x28"


class ServerContext(ssl.SSLContext):
    """A context for servers whose connections all begin with a full handshake."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Make the TLS of a connection, as asyncio and uvloop do."""
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, _Handshake):
            made.incoming = incoming
        return made


class _Handshake(ssl.SSLObject):
    incoming: ssl.MemoryBIO

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises ssl.SSLError for one that resumes a session."""
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            if self.session_reused:
                self._call_off()
            raise
        if self.session_reused:
            raise ssl.SSLError("a session was resumed")

    def _call_off(self) -> None:
        # OpenSSL forgets a session at a fatal alert, so the client's next handshake is a full one.
        self.incoming.write(_FATAL_ALERT)
        with suppress(ssl.SSLError):
            super().do_handshake()
        raise ssl.SSLError("a session was resumed")


ServerContext.sslobject_class = _Handshake
