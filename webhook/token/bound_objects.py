"""The objects that a token stands and falls with: its service account, Pod, Secret or Node.

Sources: kubernetes ``pkg/serviceaccount/claims.go`` and ``legacy.go``, ``Validate``: the order of
the checks and the phrases of the refusals.

Invariants:

1. Nothing here waits: LookupNeeded leaves that to the caller.
2. What cannot be found out is refused.
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
    """The kinds of objects that count."""

    SERVICE_ACCOUNT = "ServiceAccount"
    POD = "Pod"
    SECRET = "Secret"
    NODE = "Node"


class ObjectKey(NamedTuple):
    """Names an object; the namespace of a Node is empty."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{_WORDS[self.kind]} {path}"


class ObjectState(msgspec.Struct, frozen=True, gc=False):
    """What is known of an object that exists.

    ``deleted_at`` is its ``deletionTimestamp`` in Unix seconds. ``service_account`` and ``node``
    are a Pod's, where they are known. ``is_marked_invalid`` is a Secret's: it has the label
    INVALID_SINCE_LABEL, which Kubernetes gives to Secrets whose token was not used for a year.
    """

    uid: str
    deleted_at: float | None = None
    service_account: str = ""
    node: str = ""
    is_marked_invalid: bool = False


class Absence(Enum):
    """Why there is no state of an object."""

    GONE = "gone"
    UNSEEN = "unseen"
    UNAVAILABLE = "unavailable"


Lookup = ObjectState | Absence
Lookups = Mapping[ObjectKey, Lookup]
NO_LOOKUPS: Final[Lookups] = {}


class ObjectSource(Protocol):
    """Where objects are looked up."""

    def start(self) -> None:
        """Begin what runs in the background: once, in the process that asks."""

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        """Return what is known of an object, at once and without waiting.

        ``uid`` is the one that a token names. UNSEEN means that only ``look_up`` can tell;
        UNAVAILABLE that nobody can now.
        """

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        """Ask for an object; takes a bounded time. Never UNSEEN. Safe for threads.

        ``uid`` is the one that a token names: a source may remember that it is gone.
        """

    def problem(self) -> str:
        """Return why this source is not ready, empty where it is."""

    def warning(self) -> str:
        """Return what is wrong although it goes on, empty where nothing is."""

    def close(self) -> None:
        """End what runs in the background."""


class LookupNeeded(Exception):  # noqa: N818 - a question, not an error
    """No verdict yet: an object has to be looked up first."""

    def __init__(self, key: ObjectKey, uid: str) -> None:
        super().__init__(f"{key} has to be looked up")
        self.key = key
        self.uid = uid


def check_objects(
    claims: Claims, source: ObjectSource, answers: Lookups, leeway: float, now: float
) -> None:
    """Check every object of a token.

    ``answers`` are those of ``look_up``; they go before what the source knows. ``leeway`` is the
    time in seconds for which an object that is being deleted still counts. Raises
    TokenRefusedError, and LookupNeeded for an object that the source has not seen.
    """
    for key, uid in objects_of(claims):
        answer = answers.get(key) or source.find(key, uid)
        if answer is Absence.UNSEEN:
            raise LookupNeeded(key, uid)
        _check(key, uid, answer, leeway, now)
        # Only the Secret of a legacy token is named without its UID.
        if not uid and isinstance(answer, ObjectState) and answer.is_marked_invalid:
            raise _marked_invalid(claims, key)


def objects_of(claims: Claims) -> list[tuple[ObjectKey, str]]:
    """Return the objects that a token stands and falls with, and their UIDs.

    The UID is empty where a token has none. A Pod's node is not one of them.
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


def _check(key: ObjectKey, uid: str, answer: Lookup, leeway: float, now: float) -> None:
    if isinstance(answer, Absence):
        if answer is Absence.GONE:
            raise _gone(key, "there is none of that name")
        raise TokenRefusedError(
            Reason.LOOKUP_FAILED,
            f"service account token could not be checked: {key} could not be looked up; try again "
            "when the source of objects is reachable (see /readyz?verbose)",
        )
    if uid and answer.uid != uid:
        claim = "claim" if key.kind is Kind.SERVICE_ACCOUNT else _REF_CLAIMS[key.kind]
        raise TokenRefusedError(
            Reason.UID_MISMATCH,
            f"{_WORDS[key.kind]} UID ({answer.uid[:64]}) does not match {claim} ({uid[:64]}): "
            f"{key} was deleted and made again",
        )
    if answer.deleted_at is not None and answer.deleted_at < now - leeway:
        ago = floor(now - answer.deleted_at)
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


_WORDS: Final = {
    Kind.SERVICE_ACCOUNT: "service account",
    Kind.POD: "pod",
    Kind.SECRET: "secret",
    Kind.NODE: "node",
}
_REF_CLAIMS: Final = {
    Kind.POD: "service account pod ref claim",
    Kind.SECRET: "service account secret ref claim",
    Kind.NODE: "service account node ref claim",
}
