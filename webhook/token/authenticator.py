"""Authenticates service account tokens: the hot path.

A token has to pass these checks, in the order of kubernetes ``pkg/serviceaccount/jwt.go``
(``AuthenticateToken``) and ``claims.go`` (``Validate``):

1. It is a compact JWS, and its payload names a trusted issuer.
2. The issuer has a key of the token's ``kid``. Without ``kid``, all keys of its ``alg`` are tried.
3. The signature is one by that key.
4. The claims are complete, and name that issuer.
5. The token is for one of the requested audiences.
6. It is valid now.
7. The objects that it is bound to exist.
8. It is not revoked.

Invariants:

1. Only facts are cached: "this exact token has a valid signature by this key, and these claims".
   Checks 5 to 8 are made on every call.
2. A fact is used only while its key is still the issuer's key of that ``kid``.
3. ``authenticate`` never raises for the content of a token.
"""

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from threading import Lock
from typing import Final, Protocol

import msgspec

from keys import jws
from keys.errors import AlgorithmNotAllowedError, MalformedJWSError, UnusableKeyError
from keys.jwk import VerificationKey, is_same_key
from webhook.errors import (
    ClockError,
    MalformedTokenError,
    NoKeysError,
    Reason,
    TokenRefusedError,
    UnknownKeyError,
)
from webhook.token.bound_objects import NO_LOOKUPS, Lookups, ObjectSource, check_objects
from webhook.token.claims import Claims, ClockLeeway, parse_claims, read_unverified
from webhook.token.fact_cache import FactCache
from webhook.token.outcome import Authenticated, Outcome, refused

# For a process that has no memory limit for its cache, as a server does.
DEFAULT_CACHE_BYTES: Final = 64 * 1024 * 1024
# The size of an entry without its strings, measured with tracemalloc: see tests.
_FACT_OVERHEAD_BYTES: Final = 800
_AUDIENCE_OVERHEAD_BYTES: Final = 64
# Up to so many, searching a list is faster than making a set of it.
_FEW: Final = 4


class TrustedIssuer:
    """An issuer and the keys that verify its tokens. Several entries can have the same issuer.

    ``audiences`` are the default for requests without any, and the audiences of tokens without
    any. Only tokens of a ``legacy`` issuer can lack audience and times. ``leeway`` overrides that
    of the authenticator. ``is_foreign`` means that others hold the private keys. ``keys_problem``
    is why there are no keys, if that is known.
    """

    def __init__(
        self,
        url: str,
        audiences: Sequence[str],
        keys: Iterable[VerificationKey],
        *,
        legacy: bool = False,
        leeway: ClockLeeway | None = None,
        is_foreign: bool = False,
    ) -> None:
        self.url = url
        self.audiences = tuple(audiences)
        self.keys = {key.kid: key for key in keys}
        self.keys_problem = ""
        self.legacy = legacy
        self.leeway = leeway
        self.is_foreign = is_foreign
        self._others: tuple[TrustedIssuer, ...] = ()

    def replace_keys(self, keys: Iterable[VerificationKey]) -> None:
        """Replace all keys at once; safe for threads.

        A key that is the same stays the same object, so the facts that it verified stay valid.
        Raises UnusableKeyError, and changes nothing, if this is a foreign issuer and another entry
        of it has a different key with the same name.
        """
        with _replacing:
            new = {key.kid: _kept(self.keys.get(key.kid), key) for key in keys}
            if self.is_foreign:
                _require_same_names(new, self._others)
            self.keys = new

    def share_issuer(self, others: Sequence["TrustedIssuer"]) -> None:
        """Set the other entries of the same issuer. Raises UnusableKeyError like replace_keys."""
        with _replacing:
            if self.is_foreign:
                _require_same_names(self.keys, others)
            self._others = tuple(others)


def _kept(old: VerificationKey | None, new: VerificationKey) -> VerificationKey:
    return new if old is None or not is_same_key(old, new) else old


def _require_same_names(
    keys: Mapping[str, VerificationKey], others: Iterable[TrustedIssuer]
) -> None:
    for other in others:
        for kid in keys.keys() & other.keys.keys():
            if not is_same_key(keys[kid], other.keys[kid]):
                where = "another entry of trustedIssuers" if other.is_foreign else "keys/"
                raise UnusableKeyError(
                    f"the kid {kid[:64]!r} names a different key of issuer {other.url} in {where}; "
                    "remove one"
                )


class Revocations(Protocol):
    """The revocations of one state: the ``jti`` and the subjects that have one."""

    @property
    def revoked_jtis(self) -> Container[str]: ...  # noqa: D102

    @property
    def revoked_subjects(self) -> Container[str]: ...  # noqa: D102

    def find_revocation(self, claims: Claims) -> str:
        """Return the revocation that a token falls under, empty for none. Never waits."""


# Two entries of an issuer must not take different keys of the same name at the same time.
_replacing: Final = Lock()


class ClockObserver(Protocol):
    """Measures signers' clocks by their tokens."""

    def see(self, claims: Claims, now: float, token: int | None = None) -> None:
        """Record claims whose signature is valid.

        ``token`` is a number that identifies a token which was not seen before.
        """


class _Fact(msgspec.Struct, frozen=True, gc=False):
    issuer: TrustedIssuer
    key: VerificationKey
    claims: Claims
    size: int


class Authenticator:
    """Verifies tokens of a fixed set of issuers. Belongs to one event loop.

    If an issuer has several entries, the first one whose key verifies a token gives the audiences
    and the leeway. The cache of verified tokens takes at most ``cache_bytes``. Without ``objects``
    the objects that a token names are not checked. ``skew`` sees every token whose signature is
    valid. Raises UnusableKeyError if one ``kid`` names different keys of an issuer.

    >>> from keys.keyring import Keyring
    >>> from keys.pem import generate_signing_key
    >>> from webhook.token.issuer import TokenPolicy, TokenSpec, issue_token
    >>> key = generate_signing_key("ES256")
    >>> policy = TokenPolicy("https://a.example", ("vault",), 3600, 600, 86400, extend=False)
    >>> keyring = Keyring().with_new_key(key, 0)
    >>> token = issue_token(TokenSpec("shop", "cart"), policy, keyring, now=1000).token
    >>> issuer = TrustedIssuer("https://a.example", ("vault",), [key.verification_key])
    >>> authenticator = Authenticator([issuer], ClockLeeway(60, 60, 60))
    >>> authenticator.authenticate(token, ["vault"], now=1001).claims.subject
    'system:serviceaccount:shop:cart'
    >>> error = authenticator.authenticate(token, ["vault"], now=908).error
    >>> error.reason.value, error.skew_seconds, error.short_seconds
    ('NotYetValid', 92, 32)
    """

    def __init__(
        self,
        issuers: Iterable[TrustedIssuer],
        leeway: ClockLeeway,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        *,
        objects: ObjectSource | None = None,
        skew: ClockObserver | None = None,
    ) -> None:
        self._issuers: dict[str, list[TrustedIssuer]] = {}
        for issuer in issuers:
            self._issuers.setdefault(issuer.url, []).append(issuer)
        for entries in self._issuers.values():
            for entry in entries:
                entry.share_issuer([other for other in entries if other is not entry])
        self._leeway = leeway
        self._objects = objects
        self._skew = skew
        self._facts: FactCache[_Fact] = FactCache(cache_bytes)

    def replace_keys(self, issuer: str, keys: Iterable[VerificationKey]) -> None:
        """Replace the keys of the first entry of an issuer; safe for threads."""
        self._issuers[issuer][0].replace_keys(keys)

    @property
    def verified(self) -> FactCache[_Fact]:
        """The cache of verified tokens."""
        return self._facts

    def authenticate(
        self,
        token: str,
        audiences: Sequence[str],
        now: float,
        looked_up: Lookups = NO_LOOKUPS,
        revocations: Revocations | None = None,
    ) -> Outcome:
        """Return the identity of a token at the time ``now`` (Unix seconds), or why it is refused.

        Without ``audiences`` those of the token's issuer are requested. Raises LookupNeeded for an
        object that its source has not seen: look it up, and call again with it in ``looked_up``.
        Without ``revocations`` no token is revoked.
        """
        claims = None
        try:
            # 1. to 4. The facts.
            fact = self._verify(token, now)
            claims = fact.claims
            # 5. It is for one of the requested audiences.
            own = fact.issuer.audiences
            common = _check_audience(claims, own, audiences or own)
            # 6. It is valid now.
            leeway = fact.issuer.leeway or self._leeway
            within_leeway = _check_times(claims, leeway, now)
            # 7. The objects that it is bound to exist.
            if self._objects is not None:
                check_objects(claims, self._objects, looked_up, leeway.expiry, now)
            # 8. It is not revoked.
            if revocations is not None and (
                claims.jti in revocations.revoked_jtis
                or claims.subject in revocations.revoked_subjects
            ):
                why = revocations.find_revocation(claims)
                if why:
                    text = f"service account token has been revoked: {why}"
                    raise TokenRefusedError(Reason.REVOKED, text)
        except TokenRefusedError as error:
            return refused(error, claims)
        warn_after = claims.warn_after
        stale = None if warn_after is None or now <= warn_after else int(now) - warn_after
        return Authenticated(claims, common, within_leeway, stale)

    def entry_of(self, token: str, now: float) -> TrustedIssuer | None:
        """Return the entry whose key verifies a token, or None."""
        try:
            return self._verify(token, now).issuer
        except TokenRefusedError:
            return None

    def _verify(self, token: str, now: float) -> _Fact:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        fact = self._facts.get(digest)
        if fact is not None:
            # Invariant 2.
            if fact.issuer.keys.get(fact.key.kid) is fact.key:
                self._facts.move_to_end(digest)
                if self._skew is not None:
                    self._skew.see(fact.claims, now)
                return fact
            self._facts.discard(digest)
        # 1. It is a compact JWS of a trusted issuer.
        try:
            parsed = jws.parse(token)
        except MalformedJWSError as error:
            text = f"this is not a service account token: {error}"
            raise MalformedTokenError(text, is_ours=False) from error
        unverified = read_unverified(parsed.unverified_payload)
        if unverified is None:
            text = "this is not a service account token: its payload names no issuer"
            raise MalformedTokenError(text, is_ours=False)
        entries = self._issuers.get(unverified.issuer)
        if entries is None:
            text = f"its issuer {unverified.issuer[:256]!r} is not one that is trusted here"
            raise TokenRefusedError(Reason.NOT_RECOGNISED, text, is_ours=False)
        # 2. and 3. The issuer has the key, and it verifies the signature.
        issuer, key = _verified_by(parsed, entries)
        # 4. The claims are complete. If ``iss`` is duplicated, the issuer above can be the other
        # one; such claims are refused here.
        claims = parse_claims(unverified, legacy=issuer.legacy)
        if claims.issuer != issuer.url:
            text = f"token issuer {claims.issuer[:256]!r} is invalid"
            raise TokenRefusedError(Reason.MALFORMED, text)
        size = _FACT_OVERHEAD_BYTES + _AUDIENCE_OVERHEAD_BYTES * len(claims.audiences)
        size += 2 * len(parsed.unverified_payload)
        fact = _Fact(issuer, key, claims, size)
        self._facts.put(digest, fact)
        # Here, so that the tracker sees verified claims only (invariant 1 of ``skew/tracker.py``).
        if self._skew is not None:
            self._skew.see(claims, now, int.from_bytes(digest[:4]))
        return fact


def _check_audience(
    claims: Claims, configured: Sequence[str], requested: Sequence[str]
) -> tuple[str, ...]:
    """Return the requested audiences that the token is for, in the order of the token.

    A token without audiences (a legacy one) is for the configured ones. Raises TokenRefusedError
    if no audience is left. Source: ``jwt.go``, ``AuthenticateToken``.
    """
    own = claims.audiences or tuple(configured)
    wanted = requested if len(requested) <= _FEW else frozenset(requested)
    common = tuple([audience for audience in own if audience in wanted])
    if not common:
        raise TokenRefusedError(
            Reason.AUDIENCE_MISMATCH,
            f"token audiences {_go_list(own)} is invalid for the target audiences "
            f"{_go_list(requested)}",
        )
    return common


def _check_times(claims: Claims, leeway: ClockLeeway, now: float) -> tuple[str, ...]:
    """Check ``nbf``, then ``exp``, then ``iat``, in the order of go-jose's ``Claims.Validate``.

    A token exactly at the leeway passes. Returns the names of the claims that pass only thanks to
    the leeway. Raises ClockError.

    >>> from webhook.token.claims import ObjectReference
    >>> at_noon = Claims("i", "s", ("a",), "ns", ObjectReference("sa"), issued_at=43200)
    >>> _check_times(at_noon, ClockLeeway(60, 60, 60), now=43150)
    ('iat',)
    """
    not_before, expires_at, issued_at = claims.not_before, claims.expires_at, claims.issued_at
    within_leeway: tuple[str, ...] = ()
    if not_before is not None and not_before > now:
        if not_before > now + leeway.not_before:
            raise ClockError(Reason.NOT_YET_VALID, "nbf", not_before - now, leeway.not_before)
        within_leeway += ("nbf",)
    if expires_at is not None and expires_at < now:
        if now - leeway.expiry > expires_at:
            raise ClockError(Reason.EXPIRED, "exp", now - expires_at, leeway.expiry)
        within_leeway += ("exp",)
    if issued_at is not None and issued_at > now:
        if issued_at > now + leeway.issued_at:
            raise ClockError(Reason.ISSUED_IN_FUTURE, "iat", issued_at - now, leeway.issued_at)
        within_leeway += ("iat",)
    return within_leeway


def _verified_by(
    parsed: jws.CompactJWS, entries: Sequence[TrustedIssuer]
) -> tuple[TrustedIssuer, VerificationKey]:
    url = entries[0].url
    # Another thread can replace the keys.
    known = [(entry, entry.keys) for entry in entries]
    # The key can be one of those that could not be fetched.
    problems = [entry.keys_problem for entry, keys in known if not keys and entry.keys_problem]
    try:
        header = jws.header(parsed)
        kid, algorithm = header.kid, header.algorithm
        if kid is not None:
            candidates = [(entry, keys[kid]) for entry, keys in known if kid in keys][:1]
        else:
            candidates = [
                (entry, key)
                for entry, keys in known
                for key in keys.values()
                if key.algorithm == algorithm
            ]
        for entry, key in candidates:
            if jws.verify(parsed, key):
                return entry, key
    except MalformedJWSError as error:
        raise MalformedTokenError(f"service account token is malformed: {error}") from error
    except AlgorithmNotAllowedError as error:
        text = f"invalid signature: {error}"
        raise TokenRefusedError(Reason.ALGORITHM_NOT_ALLOWED, text) from error
    if problems and (kid is None or not candidates):
        raise NoKeysError(f"invalid signature, no keys found: {'; '.join(problems)}", url)
    if candidates:
        _, key = candidates[0]
        tried = f"key {key.kid}" if len(candidates) == 1 else f"any of {len(candidates)} keys"
        raise TokenRefusedError(
            Reason.BAD_SIGNATURE,
            f"invalid signature: error in cryptographic primitive, it is not one by {tried} "
            f"of issuer {url}",
        )
    if kid is None:
        text = f"invalid signature: no key of issuer {url} is for {algorithm}"
        raise TokenRefusedError(Reason.ALGORITHM_NOT_ALLOWED, text)
    count = len({name for _, keys in known for name in keys})
    raise UnknownKeyError(
        f"invalid signature, no keys found: kid {kid[:64]!r} is not one of the {count} keys of "
        f"issuer {url}",
        url,
    )


def _go_list(values: Sequence[str]) -> str:
    shown = " ".join(f'"{value[:256]}"' for value in values[:5])
    return f"[{shown}]" if len(values) <= 5 else f"[{shown} and {len(values) - 5} more]"
