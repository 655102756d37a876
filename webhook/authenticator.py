"""From a token to an identity: the hot path.

The order of the checks is that of kubernetes ``pkg/serviceaccount/jwt.go``
(``AuthenticateToken``) and ``claims.go`` (``Validate``).

Invariants:

1. Only facts are cached: "this exact token has a good signature by this key, and these claims".
   Time, audience, bound objects and revocation are checked on every call.
2. A fact is used only while its key is still the issuer's key of that ``kid``.
3. ``authenticate`` never raises for anything a token may hold.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec

from keys import jws
from keys.errors import AlgorithmNotAllowedError, MalformedJWSError
from keys.jwk import VerificationKey
from webhook.bound_objects import NO_ANSWERS, Answers, ObjectSource, check_objects
from webhook.claims import (
    Claims,
    ClockLeeway,
    check_audience,
    check_times,
)
from webhook.claims_json import parse_claims, read_unverified
from webhook.errors import (
    BadSignatureError,
    InvalidClaimsError,
    MalformedTokenError,
    NoKeysError,
    NotATokenError,
    NotRecognisedError,
    RevokedError,
    TokenAlgorithmError,
    TokenRefusedError,
    UnknownKeyError,
)
from webhook.fact_cache import FactCache
from webhook.outcome import Authenticated, Outcome, refused
from webhook.skew import SkewTracker

# Where nobody looks at the memory of the process, as a server does.
DEFAULT_CACHE_BYTES: Final = 64 * 1024 * 1024
# What an entry holds besides its strings, measured with tracemalloc: see tests.
_FACT_OVERHEAD_BYTES: Final = 800
_AUDIENCE_OVERHEAD_BYTES: Final = 64


class TrustedIssuer:
    """An issuer and the keys that verify its tokens.

    ``audiences`` are those meant where a request names none, and those that its tokens without
    any are good for. Only the tokens of a ``legacy`` issuer may have no audience and no times.
    ``leeway`` goes before that of the authenticator. ``keys_problem`` says why there are no keys,
    where that is known.
    """

    def __init__(
        self,
        url: str,
        audiences: Sequence[str],
        keys: Iterable[VerificationKey],
        *,
        legacy: bool = False,
        leeway: ClockLeeway | None = None,
    ) -> None:
        self.url = url
        self.audiences = tuple(audiences)
        self.keys = {key.kid: key for key in keys}
        self.keys_problem = ""
        self.legacy = legacy
        self.leeway = leeway

    def replace_keys(self, keys: Iterable[VerificationKey]) -> None:
        """Take over another set of keys, all at once; any thread may.

        A key that stays the same stays the same object, and with it the facts that it verified.
        """
        old = self.keys
        self.keys = {key.kid: _kept(old.get(key.kid), key) for key in keys}


def _kept(old: VerificationKey | None, new: VerificationKey) -> VerificationKey:
    if old is None or old.algorithm != new.algorithm or old.public_key != new.public_key:
        return new
    return old


class Revocations(Protocol):
    """What has been revoked."""

    def find(self, claims: Claims) -> str:
        """Say by what a token has been revoked, empty where it has not. Never waits."""


class _Fact(msgspec.Struct, frozen=True, gc=False):
    issuer: TrustedIssuer
    key: VerificationKey
    claims: Claims
    size: int


class Authenticator:
    """Verifies tokens of a fixed set of issuers. Belongs to one event loop.

    ``leeway`` is in seconds; the cache of verified tokens takes at most ``cache_bytes``. Without
    ``objects`` a token is taken at its word about the objects it names. ``skew`` is shown
    every token whose signature holds.
    """

    def __init__(
        self,
        issuers: Iterable[TrustedIssuer],
        leeway: ClockLeeway,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        *,
        objects: ObjectSource | None = None,
        revocations: Revocations | None = None,
        skew: SkewTracker | None = None,
    ) -> None:
        self._issuers = {issuer.url: issuer for issuer in issuers}
        self._leeway = leeway
        self._objects = objects
        self._revocations = revocations
        self._skew = skew
        self._facts: FactCache[_Fact] = FactCache(cache_bytes)

    def replace_keys(self, issuer: str, keys: Iterable[VerificationKey]) -> None:
        """Take over another set of keys of an issuer; any thread may."""
        self._issuers[issuer].replace_keys(keys)

    @property
    def verified(self) -> FactCache[_Fact]:
        """The cache of verified tokens."""
        return self._facts

    def authenticate(
        self, token: str, audiences: Sequence[str], now: float, looked_up: Answers = NO_ANSWERS
    ) -> Outcome:
        """Say who a token speaks for at the time ``now`` (Unix seconds), or why it is refused.

        ``audiences`` are those asked for; an empty sequence means those of the token's issuer.
        Raises LookupNeeded for an object that its source has not seen: look it up, and ask again
        with its answer in ``looked_up``.
        """
        claims = None
        try:
            # 1. to 4. The token is a JWS by a key of an issuer of ours, its claims are whole.
            fact = self._verify(token, now)
            claims = fact.claims
            # 5. It is meant for one of the audiences asked for.
            own = fact.issuer.audiences
            common = check_audience(claims, own, audiences or own)
            # 6. It is valid now.
            leeway = fact.issuer.leeway or self._leeway
            leaning = check_times(claims, leeway, now)
            # 7. What it is bound to is still there.
            if self._objects is not None:
                check_objects(claims, self._objects, looked_up, leeway.expiry, now)
            # 8. Nobody has revoked it.
            if self._revocations is not None:
                why = self._revocations.find(claims)
                if why:
                    raise RevokedError(f"service account token has been revoked: {why}")
        except TokenRefusedError as error:
            return refused(error, claims)
        warn_after = claims.warn_after
        stale = None if warn_after is None or now <= warn_after else int(now) - warn_after
        return Authenticated(claims, common, leaning, stale)

    def _verify(self, token: str, now: float) -> _Fact:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        fact = self._facts.get(digest)
        if fact is not None:
            if fact.issuer.keys.get(fact.key.kid) is fact.key:
                if self._skew is not None:
                    self._skew.see(fact.claims, now)
                return fact
            self._facts.discard(digest)
        # 1. A compact JWS whose issuer is one of ours.
        try:
            parsed = jws.parse(token)
        except MalformedJWSError as error:
            raise NotATokenError(f"this is not a service account token: {error}") from error
        unverified = read_unverified(parsed.unverified_payload)
        if unverified is None:
            raise NotATokenError("this is not a service account token: its payload names no issuer")
        issuer = self._issuers.get(unverified.issuer)
        if issuer is None:
            raise NotRecognisedError(
                f"its issuer {unverified.issuer[:256]!r} is not one that is trusted here"
            )
        # 2. and 3. A key of that issuer, and a signature by it.
        key = _verified_by(parsed, issuer)
        # 4. Claims that are whole. Of a member that stands twice the issuer above might be the
        # other one; such claims end here.
        claims = parse_claims(unverified, legacy=issuer.legacy)
        if claims.issuer != issuer.url:
            raise InvalidClaimsError(f"token issuer {claims.issuer[:256]!r} is invalid")
        size = _FACT_OVERHEAD_BYTES + _AUDIENCE_OVERHEAD_BYTES * len(claims.audiences)
        size += 2 * len(parsed.unverified_payload)
        fact = _Fact(issuer, key, claims, size)
        self._facts.put(digest, fact)
        if self._skew is not None:
            self._skew.see(claims, now, int.from_bytes(digest[:4]))
        return fact


def _verified_by(parsed: jws.CompactJWS, issuer: TrustedIssuer) -> VerificationKey:
    # Another thread may replace them.
    keys = issuer.keys
    try:
        header = jws.header(parsed)
        if not keys and issuer.keys_problem:
            problem = f"invalid signature, no keys found: {issuer.keys_problem}"
            raise NoKeysError(problem, issuer.url)
        if header.kid is not None:
            key = keys.get(header.kid)
            if key is None:
                raise UnknownKeyError(
                    f"invalid signature, no keys found: kid {header.kid[:64]!r} is none of the "
                    f"{len(keys)} keys of issuer {issuer.url}",
                    issuer.url,
                )
            candidates: tuple[VerificationKey, ...] = (key,)
        else:
            candidates = tuple(k for k in keys.values() if k.algorithm == header.algorithm)
            if not candidates:
                raise TokenAlgorithmError(
                    f"invalid signature: no key of issuer {issuer.url} is for {header.algorithm}"
                )
        for key in candidates:
            if jws.verify(parsed, key):
                return key
    except MalformedJWSError as error:
        raise MalformedTokenError(f"service account token is malformed: {error}") from error
    except AlgorithmNotAllowedError as error:
        raise TokenAlgorithmError(f"invalid signature: {error}") from error
    tried = f"key {candidates[0].kid}" if len(candidates) == 1 else f"any of {len(candidates)} keys"
    raise BadSignatureError(
        f"invalid signature: error in cryptographic primitive, it is not one by {tried} "
        f"of issuer {issuer.url}"
    )
