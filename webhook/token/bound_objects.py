"""Checks the objects that a token is bound to: its service account, Pod, Secret or Node.

Sources: kubernetes ``pkg/serviceaccount/claims.go`` and ``legacy.go``, ``Validate``: the order of
the checks and the phrases of the refusals.

Invariants:

1. Nothing here waits: LookupNeeded leaves that to the caller.
2. A token is refused if the state of one of its objects cannot be determined.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from math import floor
from typing import Final, NamedTuple, Protocol

import msgspec

from webhook.errors import MarkedInvalidError, Reason, TokenRefusedError
from webhook.token.claims import Claims, ObjectReference

INVALID_SINCE_LABEL: Final = "kubernetes.io/legacy-token-invalid-since"


class Kind(StrEnum):
    """The kinds of objects that tokens are bound to."""

    SERVICE_ACCOUNT = "ServiceAccount"
    POD = "Pod"
    SECRET = "Secret"
    NODE = "Node"


_WORDS: Final = {
    Kind.SERVICE_ACCOUNT: "service account",
    Kind.POD: "pod",
    Kind.SECRET: "secret",
    Kind.NODE: "node",
}


class ObjectKey(NamedTuple):
    """Names an object; the namespace of a Node is empty."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{_WORDS[self.kind]} {path}"


class ObjectState(msgspec.Struct, frozen=True, gc=False):
    """An object that exists.

    ``deleted_at`` is its ``deletionTimestamp`` in Unix seconds. A Pod has ``service_account`` and
    ``node``, if they are known. A Secret is ``is_marked_invalid`` if it has INVALID_SINCE_LABEL,
    which Kubernetes adds to Secrets whose token was not used for a year.
    """

    uid: str
    deleted_at: float | None = None
    service_account: str = ""
    node: str = ""
    is_marked_invalid: bool = False


class Absence(Enum):
    """Why the state of an object is missing."""

    GONE = "gone"
    UNSEEN = "unseen"
    UNAVAILABLE = "unavailable"


Lookup = ObjectState | Absence
Lookups = Mapping[ObjectKey, Lookup]
NO_LOOKUPS: Final[Lookups] = {}


class ObjectSource(Protocol):
    """A source of objects."""

    def start(self) -> None:
        """Start the background work: once, in the process that looks objects up."""

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        """Return an object without waiting; ``uid`` is the one that a token names.

        UNSEEN means that only ``look_up`` can tell, UNAVAILABLE that neither can at the moment.
        """

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        """Look an object up, within a bounded time; never UNSEEN. Safe for threads.

        ``uid`` is the one that a token names: a source can remember that it is gone.
        """

    def problem(self) -> str:
        """Return why this source is not ready, empty if it is."""

    def warning(self) -> str:
        """Return what is wrong although the source works, empty for nothing."""

    def close(self) -> None:
        """Stop the background work."""


class LookupNeeded(Exception):  # noqa: N818 - a request, not an error
    """No verdict yet: an object has to be looked up first."""

    def __init__(self, key: ObjectKey, uid: str) -> None:
        super().__init__(f"{key} has to be looked up")
        self.key = key
        self.uid = uid


def check_objects(
    claims: Claims, source: ObjectSource, looked_up: Lookups, leeway: float, now: float
) -> None:
    """Check every object of a token.

    ``looked_up`` has the results of ``look_up``, which take precedence over the source. An object
    that is being deleted exists for another ``leeway`` seconds. Raises TokenRefusedError, and
    LookupNeeded for an object that the source has not seen.
    """
    for key, uid in objects_of(claims):
        found = looked_up.get(key) or source.find(key, uid)
        if found is Absence.UNSEEN:
            raise LookupNeeded(key, uid)  # Invariant 1.
        _check(key, uid, found, leeway, now)
        # Only the Secret of a legacy token is named without its UID.
        if not uid and isinstance(found, ObjectState) and found.is_marked_invalid:
            raise _marked_invalid(claims, key)


def objects_of(claims: Claims) -> list[tuple[ObjectKey, str]]:
    """Return the objects that a token is bound to, and their UIDs, empty if it has none.

    A Pod's node is not one of them.
    """
    namespace = claims.namespace
    found = [_entry(Kind.SERVICE_ACCOUNT, namespace, claims.service_account)]
    if claims.secret is not None:
        found.append(_entry(Kind.SECRET, namespace, claims.secret))
    if claims.pod is not None:
        found.append(_entry(Kind.POD, namespace, claims.pod))
    elif claims.node is not None:
        found.append(_entry(Kind.NODE, "", claims.node))
    return found


def _entry(kind: Kind, namespace: str, reference: ObjectReference) -> tuple[ObjectKey, str]:
    return ObjectKey(kind, namespace, reference.name), reference.uid


def _check(key: ObjectKey, uid: str, found: Lookup, leeway: float, now: float) -> None:
    if isinstance(found, Absence):
        if found is Absence.GONE:
            raise _gone(key, "no object has that name")
        raise TokenRefusedError(  # Invariant 2.
            Reason.LOOKUP_FAILED,
            f"service account token could not be checked: {key} could not be looked up; try again "
            "when the source of objects is reachable (see /readyz?verbose)",
        )
    if uid and found.uid != uid:
        word = _WORDS[key.kind]
        is_account = key.kind is Kind.SERVICE_ACCOUNT
        claim = "claim" if is_account else f"service account {word} ref claim"
        raise TokenRefusedError(
            Reason.UID_MISMATCH,
            f"{word} UID ({found.uid[:64]}) does not match {claim} ({uid[:64]}): "
            f"{key} was deleted and made again",
        )
    if found.deleted_at is not None and found.deleted_at < now - leeway:
        ago = floor(now - found.deleted_at)
        raise _gone(key, f"its deletionTimestamp was {ago}s ago (leeway {leeway:g}s)")


def _marked_invalid(claims: Claims, key: ObjectKey) -> MarkedInvalidError:
    account = f"{claims.namespace}/{claims.service_account.name}"
    return MarkedInvalidError(
        f"the token in {key} for service account {account} has been marked invalid. Use tokens "
        "from the TokenRequest API or manually created secret-based tokens, or remove the "
        f"'{INVALID_SINCE_LABEL}' label from the secret to temporarily allow use of this token"
    )


def _gone(key: ObjectKey, detail: str) -> TokenRefusedError:
    text = f"{key} has been deleted: {detail}"
    if key.kind is Kind.SERVICE_ACCOUNT:
        return TokenRefusedError(Reason.SERVICE_ACCOUNT_GONE, text)
    text = f"service account token has been invalidated: {text}"
    return TokenRefusedError(Reason.BOUND_OBJECT_GONE, text)
