"""Auth tokens: what `authenticate` gives, and whose they are.

Source: etcd ``server/auth/simple_token.go``, ``jwt.go``, ``nop.go``.

Invariants:

1. A simple token is kept as its SHA-256 only.
2. A token stops working with the deletion of its user and with each change of its password; with
   no other change of anything, but that simple ones end when auth is disabled.
3. A simple token whose last use lies ahead has ended: the clock has been put back, and how long ago
   that use was cannot be told. Workers that are not quite in step are no such clock.
4. Its last use is that in any worker: here at once, elsewhere once ``TokenUses`` has written it.
"""

import hashlib
import secrets
from typing import Final, Protocol

import msgspec

from keys import jws
from keys.errors import AlgorithmNotAllowedError, EncodingError, MalformedJWSError
from keys.keyring import Keyring
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import AuthFailedError, InvalidAuthTokenError, UnknownAuthKeyError
from webhook.rbac.model import User
from webhook.rbac.records import Record, TokenRecord, token_record
from webhook.rbac.state import State
from webhook.rbac.token_uses import TokenUses

AUTH_TOKEN_TYPE: Final = "leeway-auth+jwt"
AUTH_TOKEN_AUDIENCE: Final = "leeway"
DEFAULT_TTL_SECONDS: Final = 300.0
MAX_TOKEN_LENGTH: Final = 4096
# By this part of the TTL a last use may lie ahead, for workers that are not quite in step.
_AHEAD_PART: Final = 10
# For how long a use may be known to another worker alone, at the worst: the store may be locked.
_UNWRITTEN_SECONDS: Final = 60.0
_RANDOM_BYTES: Final = 24


class TokenProvider(Protocol):
    """Makes and resolves auth tokens; ``now`` is in Unix seconds."""

    def assign(self, user: User, now: float) -> str:
        """Make a token for a user whose password has just been checked.

        Raises AuthFailedError where the user has changed since.
        """

    def resolve(self, token: str, now: float) -> str:
        """Return the user of a token. Raises InvalidAuthTokenError.

        UnknownAuthKeyError where it is worth another try with newer keys.
        """


class NopTokens:
    """Provider ``none``: gives nothing, knows nothing."""

    def assign(self, user: User, now: float) -> str:  # noqa: ARG002
        """Refuse."""
        raise AuthFailedError

    def resolve(self, token: str, now: float) -> str:  # noqa: ARG002
        """Refuse."""
        raise InvalidAuthTokenError


class SimpleTokens:
    """Provider ``simple``: random, in the store, alive for a TTL after its last use.

    ``uses`` is of the same store, and somebody has it write each second.
    """

    def __init__(self, store: AuthStore, uses: TokenUses, ttl: float = DEFAULT_TTL_SECONDS) -> None:
        self._store = store
        self._uses = uses
        self._ttl = ttl
        self._ahead = ttl / _AHEAD_PART

    def assign(self, user: User, now: float) -> str:
        """Make a token, and forget those that have run out."""
        token = secrets.token_urlsafe(_RANDOM_BYTES)
        digest = _digest(token)
        kept = self._ttl + _UNWRITTEN_SECONDS

        def decide(state: State) -> list[Record]:
            _require_unchanged(state, user)
            expired = [
                d for d, t in state.tokens.items() if not -self._ahead <= now - t.used <= kept
            ]
            new = token_record(digest, TokenRecord(user.name, now))
            return [new, *(token_record(d, None) for d in expired)]

        self._store.change(decide)
        return token

    def resolve(self, token: str, now: float) -> str:
        """Return the user of a token, and count this as a use."""
        digest = _digest(token)
        noted = self._uses.last(digest)
        record = self._store.state.tokens.get(digest)
        if record is None:
            raise InvalidAuthTokenError
        used = max(record.used, noted)
        if not -self._ahead <= now - used <= self._ttl:
            raise InvalidAuthTokenError
        if now > used:
            self._uses.note(digest, now)
        return record.user


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
    """Provider ``jwt``: signed by the keyring, nothing kept.

    The keys are those of service account tokens, of ``issuer``: the type in the header tells the
    two apart, wherever one is verified.
    """

    def __init__(
        self, store: AuthStore, keyring: Keyring, issuer: str, ttl: float = DEFAULT_TTL_SECONDS
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._ttl = ttl
        self.use_keyring(keyring)

    def use_keyring(self, keyring: Keyring) -> None:
        """Sign and verify with the keys of another keyring; any thread may."""
        # What a new key signs has to verify, so this comes first.
        self._keys = {key.kid: key for key in keyring.verification_keys()}
        self._keyring = keyring

    def assign(self, user: User, now: float) -> str:
        """Make a token that names the auth revision it was made at."""
        # Read before the user is: a password that changes in between makes the token stale.
        revision = self._store.revision
        _require_unchanged(self._store.state, user)
        expires = int(now + self._ttl)
        claims = _JWTClaims(self._issuer, AUTH_TOKEN_AUDIENCE, user.name, revision, expires)
        payload = msgspec.json.encode(claims)
        return jws.sign(payload, self._keyring.signing_key(), AUTH_TOKEN_TYPE)

    def resolve(self, token: str, now: float) -> str:
        """Return the user of a token that is not older than the user's password."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidAuthTokenError
        try:
            parsed = jws.parse(token)
            kid = jws.header(parsed, AUTH_TOKEN_TYPE).kid
            # Decoded first, so that no key is asked for on behalf of another kind of token.
            claims = msgspec.json.decode(parsed.unverified_payload, type=_JWTClaims)
            key = self._keys.get(kid or "")
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
        if claims.iss != self._issuer or claims.aud != AUTH_TOKEN_AUDIENCE or now > claims.exp:
            raise InvalidAuthTokenError
        state = self._store.state
        user = state.users.get(claims.username)
        # A later revision than that of the store is of a store that this one has replaced.
        if user is None or not user.generation <= claims.revision <= state.meta.revision:
            raise InvalidAuthTokenError
        return user.name


def _require_unchanged(state: State, user: User) -> None:
    current = state.users.get(user.name)
    if current is None or current.generation != user.generation:
        raise AuthFailedError


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
