"""What a revocation writes, how long it is kept, and when it is forgotten; decided on one state.

Each function returns the change, or None where nothing changes. Nothing is written here.

Invariants:

1. A revocation is kept until the last token that it concerns has expired, by the longest lifetime
   that was granted before it. Settings that become shorter later do not shorten it, and an issuer
   that is trusted later makes it longer.
2. No revocation takes another one back: of two, the later second and the later end count.
3. A clock that is a year behind when a revocation is written, or a year ahead when others are
   forgotten, or both, makes no token good again once it is right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, inf
from typing import Final

from webhook.rbac.changes import Change
from webhook.rbac.errors import UserNotFoundError
from webhook.rbac.model import User
from webhook.rbac.records import (
    REVOKED_JTI,
    REVOKED_SUBJECT,
    AuthMeta,
    Lifetime,
    Record,
    Revocation,
    lifetime_record,
    revocation_record,
    token_record,
    user_record,
)
from webhook.rbac.state import State

MARGIN_SECONDS: Final = 3600
"""On top of every lifetime: for the leeways of ``iat`` and ``exp``, 300 s each at most, and for
servers with earlier settings that are still draining."""
FORGET_SECONDS: Final = 2 * 366 * 24 * 3600
"""After its end a revocation stays for so long (invariant 3)."""
_LOOKED_AT: Final = 16


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long tokens live at most under the settings in force, in seconds.

    ``own`` is of tokens signed here, ``foreign`` of those of trusted issuers: infinite where
    nothing limits it, 0 without trusted issuers. ``ahead`` is how far the ``iat`` of an accepted
    token may lie ahead, of any issuer.
    """

    own: float
    foreign: float = 0.0
    ahead: float = 0.0


def revoke_jti(state: State, jti: str, lifetimes: Lifetimes, now: float) -> Change:
    """Decide ``AuthStore.revoke_jti``."""
    return Change([*_revoking(state, REVOKED_JTI, jti, lifetimes, now)], state.meta)


def revoke_subject(
    state: State, subject: str, lifetimes: Lifetimes, now: float, *, is_account: bool
) -> Change:
    """Decide ``AuthStore.revoke_subject``.

    For auth tokens nothing has to be kept: the simple ones go, and the user's next generation
    makes the others stale.
    """
    user = state.users.get(subject)
    if user is None and not is_account:
        raise UserNotFoundError
    meta = state.meta
    records: list[Record] = []
    if is_account:
        # Tokens of a signer whose clock is ahead are in use already.
        records += _revoking(state, REVOKED_SUBJECT, subject, lifetimes, now + lifetimes.ahead)
    if user is not None:
        meta = AuthMeta(meta.enabled, meta.revision + 1)
        records += _logging_out(state, replace(user, generation=meta.revision))
    return Change(records, meta)


def tidy(state: State, lifetimes: Lifetimes, now: float) -> Change | None:
    """Decide ``AuthStore.tidy_revocations``."""
    records = [*_noted(state, lifetimes, now), *_extended(state, lifetimes, now)]
    records += _forgotten(state, now)
    return Change(records, state.meta) if records else None


def _revoking(
    state: State, what: str, name: str, lifetimes: Lifetimes, now: float
) -> Iterator[Record]:
    noted = state.lifetime
    longest = max(lifetimes.own, lifetimes.foreign, noted.seconds)
    revocation = Revocation(int(now), _end(max(now + longest, noted.earlier_until)))
    before = _revoked(state, what).get(name)
    if before is not None:
        revocation = Revocation(
            max(revocation.before, before.before), max(revocation.until, before.until)
        )
    # Of the oldest only: a revocation costs the same however many there are.
    yield from _forgotten(state, now, at_most=_LOOKED_AT)
    # After it: it may have been among those.
    yield revocation_record(what, name, revocation)
    # Only a server's start makes it less: this may be a command with settings of its own.
    if lifetimes.own > noted.seconds:
        yield lifetime_record(Lifetime(lifetimes.own, noted.earlier_until))


def _logging_out(state: State, user: User) -> Iterator[Record]:
    yield user_record(user)
    for digest in state.tokens_of_user.get(user.name, ()):
        yield token_record(digest, None)


def _noted(state: State, lifetimes: Lifetimes, now: float) -> Iterator[Record]:
    noted = state.lifetime
    if lifetimes.own > noted.seconds:
        yield lifetime_record(Lifetime(lifetimes.own, noted.earlier_until))
    elif lifetimes.own < noted.seconds:
        until = max(noted.earlier_until, now + noted.seconds)
        yield lifetime_record(Lifetime(lifetimes.own, until))


def _extended(state: State, lifetimes: Lifetimes, now: float) -> Iterator[Record]:
    for what in (REVOKED_JTI, REVOKED_SUBJECT):
        for name, revocation in _revoked(state, what).items():
            until = _end(revocation.before + lifetimes.foreign)
            if revocation.until < until and not _is_forgotten(revocation, now):
                yield revocation_record(what, name, Revocation(revocation.before, until))


def _forgotten(state: State, now: float, at_most: int | None = None) -> Iterator[Record]:
    for what in (REVOKED_JTI, REVOKED_SUBJECT):
        for name, revocation in islice(_revoked(state, what).items(), at_most):
            if _is_forgotten(revocation, now):
                yield revocation_record(what, name, None)


def _is_forgotten(revocation: Revocation, now: float) -> bool:
    return now > revocation.until + FORGET_SECONDS


def _revoked(state: State, what: str) -> dict[str, Revocation]:
    return state.revoked_jtis if what == REVOKED_JTI else state.revoked_subjects


def _end(seconds: float) -> float:
    return inf if seconds == inf else float(ceil(seconds + MARGIN_SECONDS))
