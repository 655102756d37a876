"""What can go wrong with a request to etcd, and whether it was certainly not executed.

Invariants:

1. ``is_definite`` is true only where etcd, or this client, refuses a request before it is executed:
   by code and text, from a list. Everything else may have been executed.
2. A message is one line and names the endpoint. It has no more than ``_LONGEST`` characters of
   what a server sent.

An error is about one sending of a request. After a sending whose outcome is unknown, a definite
error of a repetition says nothing about the first.

Source: etcd ``api/v3rpc/rpctypes/error.go``; gRPC ``doc/statuscodes.md``.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Self

from webhook.errors import LeewayError

_LONGEST: Final = 300
_PREFIX: Final = "etcdserver: "


class Code(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


USER_EMPTY: Final = "etcdserver: user name is empty"
AUTH_OLD_REVISION: Final = "etcdserver: revision of auth store is old"
INVALID_AUTH_TOKEN: Final = "etcdserver: invalid auth token"
PERMISSION_DENIED: Final = "etcdserver: permission denied"
AUTH_FAILED: Final = "etcdserver: authentication failed, invalid user ID or password"
AUTH_NOT_ENABLED: Final = "etcdserver: authentication is not enabled"
COMPACTED: Final = "etcdserver: mvcc: required revision has been compacted"
NO_LEADER: Final = "etcdserver: no leader"

_NEEDS_LOGIN: Final = frozenset(
    {
        (Code.INVALID_ARGUMENT, USER_EMPTY),
        (Code.INVALID_ARGUMENT, AUTH_OLD_REVISION),
        # The same, as etcd 3.5 says it of a JWT.
        (Code.UNKNOWN, "auth: revision in header is old"),
        (Code.UNAUTHENTICATED, INVALID_AUTH_TOKEN),
    }
)
_DEFINITE: Final = _NEEDS_LOGIN | {
    (Code.INVALID_ARGUMENT, "etcdserver: key is not provided"),
    (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
    (Code.INVALID_ARGUMENT, "etcdserver: request is too large"),
    (Code.PERMISSION_DENIED, PERMISSION_DENIED),
    # Not `mvcc: database space exceeded`: etcd answers that also after it has executed a
    # transaction that went over its quota (``server/etcdserver/apply/quota.go``).
    (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
}
# An answer of etcd itself, about the request. The others are about etcd, or about the way to it.
_REFUSALS: Final = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.RESOURCE_EXHAUSTED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.UNAUTHENTICATED,
    }
)
# Texts of gRPC itself for a request that no connection was there for. If a version of gRPC has
# others, the request counts as one whose outcome is unknown.
_NOT_CONNECTED: Final = (
    "failed to connect to all addresses",
    "DNS resolution failed",
    "errors resolving",
    "empty address list",
)


class EtcdError(LeewayError):
    """Base of the errors of this room.

    ``text`` is what etcd or gRPC says, ``endpoint`` a URL, or several separated by commas.
    """

    def __init__(
        self,
        message: str,
        *,
        code: Code = Code.UNKNOWN,
        text: str = "",
        endpoint: str = "",
        is_definite: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.text = text
        self.endpoint = endpoint
        self.is_definite = is_definite

    @property
    def is_auth(self) -> bool:
        """Whether a new log-in is what it takes; the request was not executed."""
        return (self.code, self.text) in _NEEDS_LOGIN


class NotSentError(EtcdError):
    """A request that was not sent, because no endpoint could be reached or logged in to."""

    @classmethod
    def at(cls, endpoint: str, text: str, code: Code = Code.UNAVAILABLE) -> Self:
        """Return the error for one endpoint."""
        return cls(
            f"etcd at {endpoint} cannot be reached: {text}",
            code=code,
            text=text,
            endpoint=endpoint,
            is_definite=True,
        )


class NoAnswerError(EtcdError):
    """A request that was sent, or may have been, and has no answer that says what became of it."""


class RefusedError(EtcdError):
    """A request that etcd refused."""


class PermissionDeniedError(RefusedError):
    """A request that the user of the certificate or token is not permitted to make."""


class CompactedError(RefusedError):
    """A revision that is no longer there. The oldest that is, if etcd says so, or 0."""

    compact_revision: int = 0


class LoginRefusedError(RefusedError):
    """A user name and password that etcd does not accept."""


class WatchCanceledError(RefusedError):
    """A watch that etcd ended; ``text`` is its reason."""


class CredentialFileError(EtcdError):
    """A file with a certificate, key or password that cannot be used. Nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Code.FAILED_PRECONDITION, is_definite=True)


def shorten(text: str) -> str:
    r"""Return the text of a server as one line of limited length (invariant 2).

    >>> shorten("etcdserver:\n  no leader")
    'etcdserver: no leader'
    """
    # The length is limited first, so that the rest takes no longer for a long text.
    words = " ".join(text[: 2 * _LONGEST].split())
    return "".join(filter(str.isprintable, words))[:_LONGEST]


def error_of_status(code: Code, text: str, endpoint: str, what: str) -> EtcdError:
    """Return the error for a status; ``what`` is the method, like ``Range``.

    >>> error = error_of_status(Code.UNAUTHENTICATED, INVALID_AUTH_TOKEN, "https://a:2379", "Put")
    >>> str(error), error.is_definite, error.is_auth
    ('etcd at https://a:2379 refused Put: etcdserver: invalid auth token', True, True)
    """
    text = shorten(text)
    if code is Code.UNAVAILABLE and text.startswith(_NOT_CONNECTED):
        return NotSentError.at(endpoint, _why_not_connected(text))
    is_definite = (code, text) in _DEFINITE  # invariant 1
    if (code, text) in _NEEDS_LOGIN or (code in _REFUSALS and text.startswith(_PREFIX)):
        return _refusal_class(code, text)(
            f"etcd at {endpoint} refused {what}: {text}",
            code=code,
            text=text,
            endpoint=endpoint,
            is_definite=is_definite,
        )
    why = "it took too long" if code is Code.DEADLINE_EXCEEDED else text or code.name
    return NoAnswerError(
        f"etcd at {endpoint} did not answer {what}: {why}", code=code, text=text, endpoint=endpoint
    )


def unreadable(endpoint: str, what: str) -> EtcdError:
    """Return the error for an answer that is not one to the request."""
    return error_of_status(Code.INTERNAL, "the answer cannot be read", endpoint, what)


def error_of_cancel(reason: str, compact_revision: int, endpoint: str) -> EtcdError:
    """Return the error for a watch that etcd has cancelled, or refused to create.

    ``reason`` can be a text alone, or one that contains a status as Go prints it.
    """
    text = shorten(reason)
    if compact_revision > 0 or text.endswith(COMPACTED):
        code, text = Code.OUT_OF_RANGE, COMPACTED
    else:
        known = [pair for pair in _CANCEL_REASONS if text.endswith(pair[1])]
        code, text = known[0] if known else (Code.UNKNOWN, text or "no reason given")
    kind = _refusal_class(code, text)
    if kind is RefusedError:
        kind = WatchCanceledError
    error = kind(
        f"etcd at {endpoint} cancelled a watch: {text}", code=code, text=text, endpoint=endpoint
    )
    if isinstance(error, CompactedError):
        error.compact_revision = compact_revision
    return error


def combine(errors: Sequence[EtcdError]) -> EtcdError:
    """Return one error for a request that failed at each endpoint; the last one counts.

    It is definite if all are: the request was sent nowhere.
    """
    last = errors[-1]
    if len({error.endpoint for error in errors}) == 1:
        return last
    is_definite = all(error.is_definite for error in errors)
    start = "no endpoint of etcd can be reached" if is_definite else "no endpoint of etcd answered"
    whys = (f"{error.endpoint}: {error.text or error.code.name}" for error in errors)
    return (NotSentError if is_definite else NoAnswerError)(
        f"{start}: {'; '.join(whys)}",
        code=last.code,
        text=last.text,
        endpoint=",".join(error.endpoint for error in errors),
        is_definite=is_definite,
    )


_CANCEL_REASONS: Final = (
    *_NEEDS_LOGIN,
    (Code.PERMISSION_DENIED, PERMISSION_DENIED),
    (Code.UNAVAILABLE, NO_LEADER),
)


def _refusal_class(code: Code, text: str) -> type[RefusedError]:
    if code is Code.PERMISSION_DENIED:
        return PermissionDeniedError
    return CompactedError if text == COMPACTED else RefusedError


def _why_not_connected(text: str) -> str:
    """Return what is of use in gRPC's text: the error of the last address."""
    _, found, why = text.partition("last error: ")
    why = why.removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: ") if found else text
    hints = [hint for part, hint in _HINTS.items() if part in why]
    return f"{why}; {hints[0]}" if hints else why


_HINTS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "check the CA file, and the server certificate of this member",
    # What gRPC says when the other side ends the connection in the middle of the TLS handshake.
    "Unwrap failed": "it may not accept the client certificate",
}
