"""Auth tokens: what etcd's Authenticate returns, and the user of a token.

Invariants:

1. A simple token is stored as its SHA-256 only.
2. A token becomes invalid with the deletion of its user and with each change of its password, and
   with no other change; but simple tokens end when auth is disabled.
3. A simple token whose last use is in the future is refused: the clock was set back, and how long
   ago that use was is unknown. Differences between the clocks of workers are smaller.
4. The last use of a simple token is that in any worker: known in this one at once, in others when
   ``TokenUses`` has written it.
5. A use is written only to a token that exists, and never over a later use.
6. A use that could not be written is kept until it is written or its token has ended; there is at
   most one for each token.
7. A use is written when it is later than the written one by the resolution: RESOLUTION_SECONDS, or
   half of the TTL on a store that replicas share, where each write is one of a whole cluster. So a
   token lives for a TTL after its last use where that was, and elsewhere for half of it at least.
8. A simple token is deleted when no worker can accept it any more, whatever was not written yet.
   Where replicas with clocks of their own share the store, none is deleted because its last use
   lies ahead, and none while their clocks differ by more than CLOCK_SECONDS.
9. Writing uses makes no change fail: what conflicts with a change is written in the next round.

Source: etcd ``server/auth/simple_token.go``, ``jwt.go``, ``nop.go``.
"""

import hashlib
import secrets
from collections.abc import Iterator
from heapq import nsmallest
from itertools import islice
from math import inf
from threading import Lock
from typing import Final, Protocol

import msgspec

from keys import jws
from keys.errors import AlgorithmNotAllowedError, EncodingError, MalformedJWSError
from keys.keyring import Keyring
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import AuthFailedError, InvalidAuthTokenError, UnknownAuthKeyError
from webhook.rbac.lots import MAX_LOT_RECORDS
from webhook.rbac.model import User
from webhook.rbac.records import Record, TokenRecord, token_record
from webhook.rbac.revocations import CLOCK_SECONDS
from webhook.rbac.state import AuthState

AUTH_TOKEN_TYPE: Final = "leeway-auth+jwt"
AUTH_TOKEN_AUDIENCE: Final = "leeway"
DEFAULT_TTL_SECONDS: Final = 300.0
MAX_TOKEN_LENGTH: Final = 4096
RESOLUTION_SECONDS: Final = 1.0
"""A use that is later by less is not written (etcd's ``simpleTokenTTLResolution``)."""
SHARED_INTERVAL_SECONDS: Final = 10.0
"""How often a worker writes uses to a store that replicas share."""
# A last use may be in the future by this part of the TTL (invariant 3).
_AHEAD_PART: Final = 10
# How long writing a use may take, while the store is locked or cannot be reached.
_UNWRITTEN_SECONDS: Final = 60.0
_RANDOM_BYTES: Final = 24


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


class TokenUses:
    """The uses of simple tokens in this process that are not written yet. Safe for threads."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._lock = Lock()
        self._last: dict[bytes, float] = {}
        self._ttl = DEFAULT_TTL_SECONDS

    def __len__(self) -> int:
        return len(self._last)

    def last(self, digest: bytes) -> float:
        """Return the last use that is not written yet, or 0. Never waits.

        To be called before the record of the token is read: that has what is no longer here.
        """
        return self._last.get(digest, 0.0)

    @property
    def interval(self) -> float:
        """How many seconds should pass between two calls of ``write``."""
        return SHARED_INTERVAL_SECONDS if self._store.is_shared else RESOLUTION_SECONDS

    def note(self, digest: bytes, now: float, ttl: float) -> None:
        """Record the latest use, at ``now`` (Unix seconds), of a token. Never waits.

        The token lives for ``ttl`` seconds after it.
        """
        with self._lock:
            self._last[digest] = now
            self._ttl = ttl

    def write(self) -> None:
        """Write the uses that are later by the resolution (invariant 7) in one transaction.

        On a store that replicas share those are MAX_LOT_RECORDS at most, of the tokens with the
        shortest life left; the others are written in the next rounds. Raises StoreError or
        StoreUnavailableError where they cannot be written.
        """
        with self._lock:
            uses, ttl = dict(self._last), self._ttl
        is_shared = self._store.is_shared
        resolution = ttl / 2 if is_shared else RESOLUTION_SECONDS
        at_most = MAX_LOT_RECORDS if is_shared else len(uses)
        is_first = True

        def decide(state: AuthState) -> list[Record]:
            nonlocal is_first
            if not is_first:  # Invariant 9.
                return []
            is_first = False
            return _to_write(state, uses, resolution, at_most)

        try:
            if _to_write(self._store.state, uses, resolution, at_most):
                self._store.change(decide)
        finally:
            self._forget_written(uses)

    def _forget_written(self, uses: dict[bytes, float]) -> None:
        state = self._store.state
        with self._lock:
            for digest, used in uses.items():
                record = _live(state, digest)
                is_done = record is None or record.used >= used
                # Invariant 6: a later use may have come since.
                if is_done and self._last.get(digest) == used:
                    del self._last[digest]


class NopTokens:
    """Provider ``none``: makes no tokens and accepts none."""

    def assign(self, user: User, now: float, state: AuthState | None = None) -> str:  # noqa: ARG002
        """Refuse."""
        raise AuthFailedError

    def resolve(self, token: str, now: float, state: AuthState | None = None) -> str:  # noqa: ARG002
        """Refuse."""
        raise InvalidAuthTokenError


class SimpleTokens:
    """Provider ``simple``: random, in the store, valid for a TTL after its last use.

    ``uses`` is of the same store; the caller has to write it every ``uses.interval`` seconds.
    """

    def __init__(self, store: AuthStore, uses: TokenUses, ttl: float = DEFAULT_TTL_SECONDS) -> None:
        self._store = store
        self._uses = uses
        self._ttl = ttl
        self._ahead = ttl / _AHEAD_PART

    def assign(self, user: User, now: float, state: AuthState | None = None) -> str:  # noqa: ARG002
        """Make a token, and delete MAX_LOT_RECORDS of those that have ended."""
        token = secrets.token_urlsafe(_RANDOM_BYTES)
        digest = _digest(token)  # Invariant 1.

        def decide(state: AuthState) -> list[Record]:
            _require_unchanged(state, user)
            new = token_record(digest, TokenRecord(user.name, now, state.meta.token_epoch))
            ended = islice(self._ended(state, now), MAX_LOT_RECORDS)
            return [new, *(token_record(d, None) for d in ended)]

        self._store.change(decide)
        return token

    def _ended(self, state: AuthState, now: float) -> Iterator[bytes]:
        # Invariant 8: half a TTL for uses that are not due, and both clocks may be wrong.
        kept = 1.5 * self._ttl + _UNWRITTEN_SECONDS + self._ahead
        difference = self._store.clock_difference
        oldest = max(now, now + difference) - kept if abs(difference) <= CLOCK_SECONDS else -inf
        latest = inf if self._store.is_shared else now + self._ahead
        for digest, record in state.tokens.items():
            if not oldest <= record.used <= latest or record.epoch != state.meta.token_epoch:
                yield digest

    def resolve(self, token: str, now: float, state: AuthState | None = None) -> str:
        """Return the user of a token, and count this as a use."""
        digest = _digest(token)
        noted = self._uses.last(digest)
        record = _live(state or self._store.state, digest)  # Invariant 2.
        if record is None:
            raise InvalidAuthTokenError
        used = max(record.used, noted)  # Invariant 4.
        # Invariant 3.
        if not -self._ahead <= now - used <= self._ttl:
            raise InvalidAuthTokenError
        if now > used:
            self._uses.note(digest, now, self._ttl)
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
        _require_unchanged(state, user)
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
        5. Its user exists, and its revision is not before that of the user's password (invariant 2)
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


def _require_unchanged(state: AuthState, user: User) -> None:
    current = state.users.get(user.name)
    if current is None or current.generation != user.generation:
        raise AuthFailedError


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _live(state: AuthState, digest: bytes) -> TokenRecord | None:
    """Return the record of a token that has not ended with its user, its password or its epoch."""
    record = state.tokens.get(digest)
    return record if record is not None and record.epoch == state.meta.token_epoch else None


def _to_write(
    state: AuthState, uses: dict[bytes, float], resolution: float, at_most: int
) -> list[Record]:
    # Invariants 5 and 7.
    due = [
        (record.used, digest, msgspec.structs.replace(record, used=used))
        for digest, used in uses.items()
        if (record := _live(state, digest)) is not None and used - record.used >= resolution
    ]
    if len(due) > at_most:
        due = nsmallest(at_most, due)
    return [token_record(digest, record) for _, digest, record in due]
