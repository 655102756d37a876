"""The outcome of authentication: a token is accepted or refused, with its claims."""

from functools import lru_cache
from typing import Final

import msgspec

from webhook.errors import TokenRefusedError
from webhook.token.claims import Claims

_SERVICE_ACCOUNTS_GROUP: Final = "system:serviceaccounts"
AUTHENTICATED_GROUP: Final = "system:authenticated"


class Authenticated(msgspec.Struct, frozen=True, gc=False):
    """A token that is accepted.

    ``leeway_claims`` are the claims that pass only thanks to the leeway; ``stale_seconds`` is the
    time since ``warnafter``, None before that.
    """

    claims: Claims
    audiences: tuple[str, ...]
    leeway_claims: tuple[str, ...] = ()
    stale_seconds: int | None = None


class Refused(msgspec.Struct, frozen=True):
    """A token that is refused, and its claims if they are complete and the signature is valid.

    Unlike the other types here it is tracked by the garbage collector, because an error can hold
    frames.
    """

    error: TokenRefusedError
    claims: Claims | None = None


Outcome = Authenticated | Refused


def refused(error: TokenRefusedError, claims: Claims | None = None) -> Refused:
    """Return the outcome for an error that was caught, without its frames.

    A frame refers to what the caller does with the outcome. With it each refused token would stay
    in memory until the next garbage collection.
    """
    error.__traceback__ = None
    error.__cause__ = None
    error.__context__ = None
    return Refused(error, claims)


@lru_cache(maxsize=1024)
def groups_of(namespace: str) -> tuple[str, ...]:
    """Return the groups of the service accounts of a namespace."""
    own = f"{_SERVICE_ACCOUNTS_GROUP}:{namespace}"
    return (_SERVICE_ACCOUNTS_GROUP, own, AUTHENTICATED_GROUP)
