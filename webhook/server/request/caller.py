"""The caller of a request, and its permissions.

The user is the common name of the client certificate, as with etcd's ``--client-cert-auth``. A
client without one can present a service account token signed here, or an auth token. While auth is
disabled, a certificate allows everything, and nothing else counts. A user with the role ``root``
can act as somebody else.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from webhook.kube.token_review import identity_of
from webhook.rbac.access import is_key_permitted, roles_of
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import TokenProvider, is_auth_jwt
from webhook.rbac.errors import InvalidAuthTokenError, StoreLockedError, UnknownAuthKeyError
from webhook.rbac.model import ROOT, PermissionType
from webhook.rbac.state import AuthState
from webhook.server.request.impersonation import wanted_identity
from webhook.server.request.message import (
    Caller,
    Later,
    Request,
    RequestError,
    basis_of,
    settled,
)
from webhook.server.request.refreshing import Refreshing
from webhook.server.request.verifier import TokenVerifier
from webhook.token.outcome import Authenticated, Outcome, Refused

NOBODY: Final = Caller("", ())
"""The caller of a request to etcd's API that shows no identity, or none that is accepted."""
_ANY_TIME: Final = -inf
_MAX_WRITERS: Final = 1024
_AUTHORIZATION: Final = re.compile(rb"(?i:bearer )?([A-Za-z0-9._~+/-]+=*)")
_HOW_TO_AUTHORIZE: Final = (
    "the Authorization header is not `Bearer TOKEN`; send the word Bearer, one space "
    "and the token, and nothing else"
)
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="leeway"'),)


class PeerCertificate(NamedTuple):
    """The fields of a client certificate that identify the caller; times are Unix seconds.

    ``caller`` is None where the subject has no common name, or more than one.
    """

    caller: Caller | None
    not_before: float
    not_after: float


@lru_cache(maxsize=1024)
def peer_certificate(pem: str) -> PeerCertificate:
    """Parse a client certificate that the handshake has verified."""
    certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if len(names) == 1 else ""
    return PeerCertificate(
        Caller(name) if name else None,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def caller_of_certificate(pem: str, now: float) -> Caller:
    """Return the user of a client certificate. Raises RequestError 401.

    The handshake has verified the certificate against our CA. A connection may outlive it, so
    its dates are checked on every request.
    """
    caller, not_before, not_after = peer_certificate(pem)
    if not not_before <= now <= not_after:
        raise RequestError(
            401, "the client certificate is not valid at this server's time; renew it", _CHALLENGE
        )
    if caller is None:
        raise RequestError(
            401, "the client certificate needs exactly one common name; make a new one", _CHALLENGE
        )
    return caller


def authorization_token(request: Request) -> str:
    """Return the token of the Authorization header, after ``Bearer`` or bare as etcd has it.

    Empty where there is no header. Raises RequestError 401 for one of another form, as RFC 6750
    section 2.1 has it, and for two headers: a proxy may have looked at the other one.
    """
    values = [value for name, value in request.headers if name == b"authorization"]
    if len(values) > 1:
        raise RequestError(401, "there are two Authorization headers; send one", _CHALLENGE)
    value: bytes = b"".join(values).strip()
    if not value:
        return ""
    match = _AUTHORIZATION.fullmatch(value)
    if match is None or match[1].lower() == b"bearer":
        raise RequestError(401, _HOW_TO_AUTHORIZE, _CHALLENGE)
    return match[1].decode("ascii")


class Callers:
    """Identifies callers, and checks their permissions.

    ``issuer`` is our own: tokens of other issuers are reviewed here, but are not an identity. A
    token of ours must have one of the ``audiences``. With ``is_strict`` a request waits until it is
    proven that nothing is missing which was acknowledged before the request was here.
    """

    def __init__(
        self,
        store: AuthStore,
        tokens: TokenProvider,
        verifier: TokenVerifier,
        issuer: str,
        audiences: tuple[str, ...],
        clock: Callable[[], float],
        *,
        is_strict: bool = False,
    ) -> None:
        self._store = store
        self._is_strict = is_strict
        self._refreshing = Refreshing(store)
        self._tokens = tokens
        self._verifier = verifier
        self._issuer = issuer
        self._audiences = tuple(dict.fromkeys((*audiences, issuer)))
        self._clock = clock
        # A state, and users allowed to write a key by it: with the revision that allows that.
        self._writers: tuple[AuthState | None, dict[tuple[str, bytes], int]] = (None, {})

    def find(self, request: Request) -> Caller | Later[Caller | None] | None:
        """Return the caller of a request, None if it shows no identity.

        The basis of the answer is taken first: to be called once the request is here completely,
        before anything else of it is decided.

        Raises RequestError 401 for an identity that is not accepted, and StoreUnavailableError and
        StoreError as ``AuthStore.basis`` does.
        """
        since = self._store.now() if self._is_strict else _ANY_TIME
        try:
            request.basis = self._store.basis(since)
        except StoreLockedError as error:
            return self._find_after(error, since, request)
        return self._find(request)

    def confirm(self, request: Request) -> None:
        """Check that what was decided for a request still holds; from now on nothing rests on it.

        To be called after the verdict and before its first trace: a count, a line of a log, a
        signature, the answer itself. By then the basis may be older than it may be: an object was
        looked up, a thread was busy, the process was stopped. Raises BasisLostError if it has to be
        decided again, beginning with ``find``.
        """
        basis = request.basis
        if basis is None:
            return
        if request.has_waited:
            self._store.confirm_unchanged(basis)
        elif basis.proof != inf:  # Otherwise it does not age, and nothing has been applied since.
            self._store.confirm(basis)
        request.basis = None

    async def _find_after(
        self, locked: StoreLockedError, since: float, request: Request
    ) -> Caller | None:
        request.basis = await self._refreshing.wait(locked, since)
        return await settled(self._find(request))

    def _find(self, request: Request) -> Caller | Later[Caller | None] | None:
        if request.certificate:
            caller = caller_of_certificate(request.certificate, self._clock())
            return self._impersonating(caller, request) if request.headers.impersonation else caller
        token = authorization_token(request)
        if not token or not basis_of(request).state.meta.enabled:
            return None
        return self._find_by_token(request, token)

    async def _find_by_token(self, request: Request, token: str) -> Caller:
        caller = None
        if not is_auth_jwt(token):
            outcome: Outcome = await settled(
                self._verifier.authenticate(token, self._audiences, request)
            )
            caller = self._service_account(outcome, token)
        if caller is None:
            try:
                caller = await self._user_of(token, request)
            except InvalidAuthTokenError as error:
                raise RequestError(401, "invalid auth token; log in again", _CHALLENGE) from error
        return self._impersonating(caller, request) if request.headers.impersonation else caller

    async def subject_of(self, token: str, request: Request) -> Caller | str:
        """Return whom a token speaks for, or why it is refused.

        It may be of any trusted issuer, or an auth token.
        """
        if not is_auth_jwt(token):
            outcome: Outcome = await settled(self._verifier.authenticate(token, (), request))
            if not isinstance(outcome, Refused):
                return _caller_of(outcome)
            if outcome.error.is_ours:
                return str(outcome.error)
        try:
            return await self._user_of(token, request)
        except InvalidAuthTokenError:
            return "it is neither of an issuer that is trusted here nor an auth token in use"

    def require(
        self, request: Request, key: bytes, kind: PermissionType = PermissionType.WRITE
    ) -> None:
        """Check that the caller is allowed to write a key, or to read it.

        Raises RequestError 403.
        """
        basis, caller = request.basis, request.caller
        assert basis is not None  # noqa: S101 - what has a caller has a basis
        assert caller is not None  # noqa: S101 - the dispatcher lets nobody else through
        state, revision, _ = basis
        if not state.meta.enabled and not caller.by_token:
            return
        user, groups = caller.username, caller.groups
        of_state, writers = self._writers
        if of_state is not state:
            # Nothing keeps a state that was replaced in memory, and no revision is taken for one of
            # another history.
            writers = {}
            self._writers = state, writers
        is_memorable = kind is PermissionType.WRITE and not caller.by_token
        if is_memorable and writers.get((user, key)) == revision:
            return
        if not is_key_permitted(state, user, groups, kind, key):
            raise RequestError(
                403,
                f"user {user[:128]!r} may not {kind.name.lower()} {key.decode()}; grant it with "
                "`leeway role grant-permission` and `leeway user grant-role`",
            )
        if is_memorable:
            if len(writers) >= _MAX_WRITERS:
                writers.clear()
            writers[user, key] = revision

    def _service_account(self, outcome: Outcome, token: str) -> Caller | None:
        if isinstance(outcome, Refused):
            if outcome.error.is_ours:
                raise RequestError(401, str(outcome.error), _CHALLENGE)
            return None
        if outcome.claims.issuer != self._issuer:
            raise RequestError(
                401,
                f"tokens of issuer {outcome.claims.issuer} are reviewed here, but open nothing "
                f"here; use one of {self._issuer}",
                _CHALLENGE,
            )
        if not self._verifier.is_signed_here(token):
            raise RequestError(
                401,
                f"tokens of issuer {self._issuer} that another system signed are reviewed here, "
                "but open nothing here; use one that this server signed",
                _CHALLENGE,
            )
        return _caller_of(outcome)

    def _impersonating(self, caller: Caller, request: Request) -> Caller:
        user, groups, uid, extra = wanted_identity(request.headers.impersonation)
        state = basis_of(request).state
        roles = roles_of(state, caller.username, caller.groups)
        # Auth may have been disabled since the token was looked at: then only certificates count.
        if (state.meta.enabled or caller.by_token) and ROOT not in roles:
            raise RequestError(
                403,
                f"user {caller.username[:128]!r} may not act as {user[:128]!r}; only who has the "
                f"role {ROOT} may",
            )
        # With auth disabled only a certificate allows anything.
        return Caller(user, groups, uid, extra, by_token=True, impersonator=caller.username)

    async def _user_of(self, token: str, request: Request) -> Caller:
        state = basis_of(request).state
        try:
            name = self._tokens.resolve(token, self._clock(), state)
        except UnknownAuthKeyError:
            # Another worker may sign with a key that this one has not read yet.
            if not await self._verifier.wait_for_keys(self._issuer):
                raise
            name = self._tokens.resolve(token, self._clock(), state)
        return Caller(name, by_token=True)


def require_identity(caller: Caller | None) -> Caller:
    """Return a caller. Raises RequestError 401 if there is none."""
    if caller is None:
        raise RequestError(
            401,
            "no identity; present a client certificate signed by this server's CA, or a token "
            "with Authorization: Bearer",
            _CHALLENGE,
        )
    return caller


def _caller_of(outcome: Authenticated) -> Caller:
    identity = identity_of(outcome)
    return Caller(identity.username, identity.groups, identity.uid, identity.extra, by_token=True)
