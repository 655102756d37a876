"""Who calls: the client certificate's common name is the user, as with etcd's client-cert-auth."""

from typing import Final

from webhook.server.http import RequestError, Scope
from webhook.server.tls import TLS_1_2, peer_certificate

_CHALLENGE: Final = [(b"www-authenticate", b'Bearer realm="leeway"')]


def caller(scope: Scope, now: float) -> str:
    """Return the user that a request comes from.

    The handshake has verified the certificate against our CA. A connection may outlive it, so
    its dates are looked at on every request. Raises RequestError 401.
    """
    tls = scope.get("extensions", {}).get("tls")
    chain = tls["client_cert_chain"] if tls and (tls["tls_version"] or 0) >= TLS_1_2 else ()
    if not chain:
        raise RequestError(
            401, "no identity; present a client certificate signed by this server's CA", _CHALLENGE
        )
    certificate = peer_certificate(chain[0])
    if not certificate.not_before <= now <= certificate.not_after:
        raise RequestError(
            401, "the client certificate is not valid at this server's time; renew it", _CHALLENGE
        )
    if not certificate.common_name:
        raise RequestError(
            401, "the client certificate needs exactly one common name; make a new one", _CHALLENGE
        )
    return certificate.common_name
