"""Auth tokens: what `authenticate` gives, and whose they are.

Source: etcd ``server/auth/simple_token.go``, ``jwt.go``, ``nop.go``.

Invariants:

1. A simple token is kept as its SHA-256 only.
2. A token stops working with the deletion of its user and with each change of its password; with
   no other change of anything, but that simple ones end when auth is disabled.
3. A simple token whose last use lies ahead has ended: the clock has been put back, and how long ago
   that use was cannot be told. Workers that are not quite in step are no such clock.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from keys import jws
from keys.errors import AlgorithmNotAllowedError, EncodingError, MalformedJWSError
from keys.keyring import Keyring
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import AuthFailedError, InvalidAuthTokenError
from webhook.rbac.model import User
from webhook.rbac.records import Record, TokenRecord, token_record
from webhook.rbac.state import State

DEFAULT_TTL_SECONDS: Final = 300.0
MAX_TOKEN_LENGTH: Final = 4096
# A use is written down when the last one written is this part of the TTL ago.
_TOUCH_PART: Final = 10
_RANDOM_BYTES: Final = 24


class TokenProvider(Protocol):
    """Makes and resolves auth tokens; ``now`` is in Unix seconds."""

    def assign(self, user: User, now: float) -> str:
        """Make a token for a user whose password has just been checked.

        Raises AuthFailedError where the user has changed since.
        """

    def resolve(self, token: str, now: float) -> str:
        """Return the user of a token. Raises InvalidAuthTokenError."""


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

    ``write_later`` runs a function off the event loop; it is how uses are written down.
    """

    def __init__(
        self,
        store: AuthStore,
        ttl: float = DEFAULT_TTL_SECONDS,
        write_later: Callable[[Callable[[], None]], object] = lambda write: write(),
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._ahead = ttl / _TOUCH_PART
        self._write_later = write_later
        self._used: dict[bytes, float] = {}
        # Uses that are on their way to the store: one write a token, however slow the store is.
        self._touching: set[bytes] = set()

    def assign(self, user: User, now: float) -> str:
        """Make a token, and forget those that have run out."""
        token = secrets.token_urlsafe(_RANDOM_BYTES)
        digest = _digest(token)

        def decide(state: State) -> list[Record]:
            _require_unchanged(state, user)
            expired = [
                d for d, t in state.tokens.items() if not -self._ahead <= now - t.used <= kept
            ]
            new = token_record(digest, TokenRecord(user.name, now))
            return [new, *(token_record(d, None) for d in expired)]

        # A worker may know of a later use, which it need not have written down yet.
        kept = self._ttl + self._ttl / _TOUCH_PART
        self._store.write_records(decide)
        for used in list(self._used):
            if used not in self._store.state.tokens:
                self._used.pop(used, None)
        return token

    def resolve(self, token: str, now: float) -> str:
        """Return the user of a token, and count this as a use."""
        digest = _digest(token)
        record = self._store.state.tokens.get(digest)
        if record is None:
            self._used.pop(digest, None)
            raise InvalidAuthTokenError
        used = max(record.used, self._used.get(digest, 0.0))
        if not -self._ahead <= now - used <= self._ttl:
            self._used.pop(digest, None)
            raise InvalidAuthTokenError
        self._used[digest] = now
        due = now - record.used >= self._ttl / _TOUCH_PART and now > used
        if due and digest not in self._touching:
            self._touching.add(digest)
            self._write_later(lambda: self._touch(digest, now))
        return record.user

    def _touch(self, digest: bytes, now: float) -> None:
        def decide(state: State) -> list[Record]:
            record = state.tokens.get(digest)
            if record is None or now - record.used < self._ttl / _TOUCH_PART:
                return []
            return [token_record(digest, TokenRecord(record.user, now))]

        try:
            self._store.write_records(decide)
        finally:
            self._touching.discard(digest)


class _JWTClaims(msgspec.Struct):
    username: str
    revision: int
    exp: int


class JWTTokens:
    """Provider ``jwt``: signed by the keyring, nothing kept."""

    def __init__(
        self, store: AuthStore, keyring: Keyring, ttl: float = DEFAULT_TTL_SECONDS
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._keys = {key.kid: key for key in keyring.verification_keys()}
        self._ttl = ttl

    def assign(self, user: User, now: float) -> str:
        """Make a token that names the auth revision it was made at."""
        # Read before the user is: a password that changes in between makes the token stale.
        revision = self._store.revision
        _require_unchanged(self._store.state, user)
        claims = _JWTClaims(user.name, revision, int(now + self._ttl))
        return jws.sign(msgspec.json.encode(claims), self._keyring.signing_key())

    def resolve(self, token: str, now: float) -> str:
        """Return the user of a token that is not older than the user's password."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidAuthTokenError
        try:
            parsed = jws.parse(token)
            key = self._keys.get(jws.header(parsed).kid or "")
            if key is None or not jws.verify(parsed, key):
                raise InvalidAuthTokenError
            claims = msgspec.json.decode(parsed.unverified_payload, type=_JWTClaims)
        except (
            MalformedJWSError,
            AlgorithmNotAllowedError,
            EncodingError,
            msgspec.DecodeError,
            UnicodeError,
        ) as error:
            raise InvalidAuthTokenError from error
        user = self._store.state.users.get(claims.username)
        if user is None or claims.revision < user.generation or now > claims.exp:
            raise InvalidAuthTokenError
        return user.name


def _require_unchanged(state: State, user: User) -> None:
    current = state.users.get(user.name)
    if current is None or current.generation != user.generation:
        raise AuthFailedError


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
