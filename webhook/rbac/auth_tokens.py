"""Auth tokens: what etcd's Authenticate returns, and the user of a token.

Invariants:

1. A token becomes invalid with the deletion of its user and with each change of its password, and
   with no other change; but all tokens end with a restore, and simple tokens (``simple_tokens``)
   when auth is disabled.

Source: etcd ``server/auth/jwt.go``, ``nop.go``.
"""

from typing import Final, Protocol

import msgspec

from keys import jws
from keys.errors import AlgorithmNotAllowedError, EncodingError, MalformedJWSError
from keys.keyring import Keyring
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import AuthFailedError, InvalidAuthTokenError, UnknownAuthKeyError
from webhook.rbac.model import User
from webhook.rbac.state import AuthState

AUTH_TOKEN_TYPE: Final = "leeway-auth+jwt"
AUTH_TOKEN_AUDIENCE: Final = "leeway"
DEFAULT_TTL_SECONDS: Final = 300.0
MAX_TOKEN_LENGTH: Final = 4096


class TokenProvider(Protocol):
    """Makes and resolves auth tokens; ``now`` is in Unix seconds."""

    def assign(self, user: User, now: float, state: AuthState | None = None) -> str:
        """Make a token for a user whose password has just been checked.

        It is decided on ``state``, None for the newest. Raises AuthFailedError where the user has
        changed since.
        """

    def resolve(self, token: str, now: float, state: AuthState | None = None) -> str:
        """Return the user of a token by ``state``, None for the newest.

        Raises InvalidAuthTokenError. It is UnknownAuthKeyError where newer keys may verify the
        token.
        """


class NopTokens:
    """Provider ``none``: makes no tokens and accepts none."""

    def assign(self, user: User, now: float, state: AuthState | None = None) -> str:  # noqa: ARG002
        """Refuse."""
        raise AuthFailedError

    def resolve(self, token: str, now: float, state: AuthState | None = None) -> str:  # noqa: ARG002
        """Refuse."""
        raise InvalidAuthTokenError


def is_auth_jwt(token: str) -> bool:
    """Return whether the header of a token says that it is an auth token; nothing is verified."""
    try:
        jws.header(jws.parse(token), AUTH_TOKEN_TYPE)
    except (MalformedJWSError, AlgorithmNotAllowedError, EncodingError, RecursionError):
        return False
    return True


class _JWTClaims(msgspec.Struct):
    iss: str
    aud: str
    username: str
    revision: int
    exp: int


class JWTTokens:
    """Provider ``jwt``: signed by the keyring, nothing stored.

    The keys also sign the service account tokens of ``issuer``; the type in the header tells the
    two kinds of token apart.
    """

    def __init__(
        self, store: AuthStore, keyring: Keyring, issuer: str, ttl: float = DEFAULT_TTL_SECONDS
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._ttl = ttl
        self.use_keyring(keyring)

    def use_keyring(self, keyring: Keyring) -> None:
        """Sign and verify with the keys of another keyring. May be called by any thread."""
        # First, so that what a new key signs can be verified.
        self._keys = {key.kid: key for key in keyring.verification_keys()}
        self._keyring = keyring

    def assign(self, user: User, now: float, state: AuthState | None = None) -> str:
        """Make a token that contains the auth revision."""
        state = state or self._store.state
        # Read before the user: if the password changes in between, the token is stale.
        revision = state.meta.revision
        require_unchanged(state, user)
        expires = int(now + self._ttl)
        claims = _JWTClaims(self._issuer, AUTH_TOKEN_AUDIENCE, user.name, revision, expires)
        payload = msgspec.json.encode(claims)
        return jws.sign(payload, self._keyring.signing_key(), AUTH_TOKEN_TYPE)

    def resolve(self, token: str, now: float, state: AuthState | None = None) -> str:
        """Return the user of a token.

        1. It has at most MAX_TOKEN_LENGTH characters and is a JWS of the type AUTH_TOKEN_TYPE.
        2. Its payload has the claims of an auth token. That is checked before the key is looked up,
           so that no other kind of token makes the caller fetch a key.
        3. Its ``kid`` is that of a key of the keyring, and the signature is of that key.
        4. Issuer and audience are ours, and it has not expired.
        5. Its user exists, and its revision is not before that of the user's password (invariant 1)
           or the store's ``floor``, and not after that of the store, as in a token of a store that
           was replaced by this one.

        Raises InvalidAuthTokenError, of which UnknownAuthKeyError is for an unknown ``kid``.
        """
        if len(token) > MAX_TOKEN_LENGTH:  # 1
            raise InvalidAuthTokenError
        try:
            parsed = jws.parse(token)
            kid = jws.header(parsed, AUTH_TOKEN_TYPE).kid  # 1
            claims = msgspec.json.decode(parsed.unverified_payload, type=_JWTClaims)  # 2
            key = self._keys.get(kid or "")  # 3
            if key is None:
                raise UnknownAuthKeyError if kid else InvalidAuthTokenError
            if not jws.verify(parsed, key, AUTH_TOKEN_TYPE):
                raise InvalidAuthTokenError
        except (
            MalformedJWSError,
            AlgorithmNotAllowedError,
            EncodingError,
            msgspec.DecodeError,
            UnicodeError,
            RecursionError,
        ) as error:
            raise InvalidAuthTokenError from error
        # 4
        if claims.iss != self._issuer or claims.aud != AUTH_TOKEN_AUDIENCE or now > claims.exp:
            raise InvalidAuthTokenError
        state = state or self._store.state
        user = state.users.get(claims.username)
        # 5
        if user is None:
            raise InvalidAuthTokenError
        first = max(user.generation, state.meta.floor)
        if not first <= claims.revision <= state.meta.revision:
            raise InvalidAuthTokenError
        return user.name


def require_unchanged(state: AuthState, user: User) -> None:
    """Raise AuthFailedError if a user has been deleted or has changed its password since."""
    current = state.users.get(user.name)
    if current is None or current.generation != user.generation:
        raise AuthFailedError
