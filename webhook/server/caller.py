"""Who calls, and whether they may.

The common name of the client certificate is the user, as with etcd's ``--client-cert-auth``; who
has none may show an auth token. While auth is disabled any certificate may do everything, and
nothing else counts.
"""

from collections.abc import Callable
from typing import Final

from webhook.rbac.access import is_key_permitted
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import InvalidAuthTokenError
from webhook.rbac.model import PermissionType
from webhook.rbac.tokens import TokenProvider
from webhook.server.http import RequestError, Scope, header
from webhook.server.tls import TLS_1_2, peer_certificate

CALLER: Final = "leeway.caller"
"""The key of the ASGI scope under which the name of the caller is left."""
_CHALLENGE: Final = [(b"www-authenticate", b'Bearer realm="leeway"')]


def certificate_user(scope: Scope, now: float) -> str:
    """Return the user of the client certificate, empty where there is no certificate.

    The handshake has verified the certificate against our CA. A connection may outlive it, so
    its dates are looked at on every request. Raises RequestError 401.
    """
    tls = scope.get("extensions", {}).get("tls")
    chain = tls["client_cert_chain"] if tls and (tls["tls_version"] or 0) >= TLS_1_2 else ()
    if not chain:
        return ""
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


def authorization_token(scope: Scope) -> str:
    """Return the token of the Authorization header, after ``Bearer`` or bare as etcd has it.

    Anything else comes back as it is, and is no token of ours. Empty where there is no header.
    """
    value = (header(scope, b"authorization") or b"").decode("latin-1").strip()
    kind, _, token = value.rpartition(" ")
    return token if kind.lower() == "bearer" else value


class Callers:
    """Finds out who calls, and asks the engine what they may do."""

    def __init__(self, store: AuthStore, tokens: TokenProvider, clock: Callable[[], float]) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock

    def identify(self, scope: Scope) -> str:
        """Return the user that a request comes from. Raises RequestError 401.

        Looks first at what other processes have written, so that auth that they enabled, and
        tokens that they ended, count for all of this request.
        """
        self._store.refresh()
        now = self._clock()
        user = certificate_user(scope, now)
        if user:
            return user
        token = authorization_token(scope)
        if token and self._store.enabled:
            try:
                return self._tokens.resolve(token, now)
            except InvalidAuthTokenError as error:
                raise RequestError(401, "invalid auth token; log in again", _CHALLENGE) from error
        raise RequestError(
            401, "no identity; present a client certificate signed by this server's CA", _CHALLENGE
        )

    def require(self, user: str, key: bytes) -> None:
        """Let a user through who may write a key. Raises RequestError 403.

        To be called after ``identify``, which brings the store up to date.
        """
        if not self._store.enabled:
            return
        if not is_key_permitted(self._store, user, (), PermissionType.WRITE, key):
            raise RequestError(
                403,
                f"user {user[:128]!r} may not write {key.decode()}; grant it with `leeway role "
                "grant-permission` and `leeway user grant-role`",
            )
