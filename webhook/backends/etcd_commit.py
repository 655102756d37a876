"""Makes one commit, whatever etcd and the network do to the request. Pure: requests are a function.

Invariants:

1. A request is sent once. What became of one is settled by a fence: an empty commit on the same
   head. Exactly one commit can follow a head, so if the fence is in, the request never will be; if
   it is refused, the ring of the head that refused it names the one that is, or else what was
   followed meanwhile.
2. Only an error of the first request can be definite. It says nothing about an earlier one. That
   the database is full is not definite, because etcd may say so of a change that it has made; but
   since that is an answer, the request is no longer under way, and a read of the head settles it.
3. A refusal is a conflict only if another commit than this one follows the expected head: requests
   may be delivered twice, and only the second answer may have arrived.
4. A commit that returns is in etcd exactly once; one that raises OutcomeUnknownError at most once;
   any other error: never.

Source: etcd ``server/etcdserver/v3_server.go`` (``processInternalRaftRequestOnce``),
``server/etcdserver/apply/quota.go`` (``quotaApplierV3.Txn``).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from webhook.backends.etcd_head import (
    CommitId,
    Head,
    HeadError,
    continues,
    decode,
    successor_of,
)
from webhook.etcd.errors import Code, EtcdError
from webhook.rbac.errors import (
    OutcomeUnknownError,
    StoreUnavailableError,
    TooLargeError,
)
from webhook.rbac.records import ConflictError

COMMIT_SECONDS: Final = 5.0
"""How long the outcome of a commit is looked for."""
FIRST_SECONDS: Final = 2.0
FENCE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.05

MAX_RECORDS: Final = 63 * 64
"""Of one transaction: etcd allows 128 operations (``--max-txn-ops``), a nested transaction those
that the levels above leave; the outer one has the head and 63 nested ones of 64."""
MAX_BYTES: Final = 3 << 19
"""Of one request: etcd's ``--max-request-bytes``, 1.5 MiB."""


class Write(NamedTuple):
    """One transaction: ``values`` are written if the head is ``expected``; None deletes a key.

    ``expected`` is None for the first commit of a store: there must be no key under the prefix.
    ``is_look`` writes nothing, and reads the head.
    """

    expected: CommitId | None
    expected_value: bytes
    head: Head
    head_value: bytes
    values: list[tuple[bytes, bytes | None]]
    is_look: bool = False


class Answer(NamedTuple):
    """Whether it was written; if not, the head that is there (revision 0: none)."""

    succeeded: bool
    revision: int
    head_value: bytes = b""


class Written(NamedTuple):
    """A commit that is in etcd, and when its request was first sent.

    What was acknowledged before ``sent`` is in the state that the commit made.
    """

    commit: CommitId
    sent: float


class NotWrittenError(StoreUnavailableError):
    """The change was not made, and never will be: it can be repeated."""


Send = Callable[[Write, float], Answer]
"""Sends a transaction with a timeout (seconds). Raises EtcdError."""


class Attempts(NamedTuple):
    """The edge of a commit: requests, CLOCK_BOOTTIME and pauses."""

    send: Send
    clock: Callable[[], float]
    pause: Callable[[float], None]
    successor: Callable[[CommitId, CommitId], CommitId | None]
    """Returns what followed a commit, of the history of a later one, as far as that is known."""


def commit(write: Write, fence: Callable[[], Write], attempts: Attempts) -> Written:
    """Make a commit on a head (invariants 1 to 4).

    ``fence`` returns an empty commit on the same head. For the first commit of a store it returns
    that commit itself, which is its own fence: no second one can be in.

    Raises ConflictError, NotWrittenError, OutcomeUnknownError, TooLargeError and
    StoreUnavailableError.
    """
    started = attempts.clock()
    request, timeout, is_first = write, FIRST_SECONDS, True
    full: EtcdError | None = None
    while True:
        try:
            answer = attempts.send(request, timeout)
        except EtcdError as error:
            # Invariant 2.
            if is_first and _is_full(error):
                full = error
            elif is_first and error.is_definite:
                raise refusal_of(error) from error
            problem = error
        else:
            if not answer.succeeded:
                return _resolved(write, answer, started, attempts)
            if request is write:
                return Written(CommitId(answer.revision, write.head.id), started)
            if full is not None:
                raise refusal_of(full) from full
            raise NotWrittenError(
                "the change was not made, because etcd did not answer in time; try again"
            )
        left = started + COMMIT_SECONDS - attempts.clock()
        if left <= _PAUSE_SECONDS:
            raise unknown(f"etcd did not answer in time ({problem})") from problem
        if not is_first:
            attempts.pause(_PAUSE_SECONDS)
        if is_first:
            request = write._replace(values=[], is_look=True) if full else fence()
        timeout, is_first = min(left, FENCE_SECONDS), False


def refusal_of(error: EtcdError) -> TooLargeError | StoreUnavailableError:
    """Return what to raise for an error that says that nothing was written."""
    if error.code == Code.INVALID_ARGUMENT and "too many operations" in error.text:
        return TooLargeError(
            f"{error.endpoint} refuses the change: it has more operations than its --max-txn-ops; "
            "leave that at its default of 128 or more"
        )
    if error.code == Code.INVALID_ARGUMENT and "too large" in error.text:
        return TooLargeError(
            f"{error.endpoint} refuses the change: it is larger than its --max-request-bytes; "
            "leave that at its default of 1.5 MiB or more"
        )
    if _is_full(error):
        return StoreUnavailableError(
            f"{error.endpoint} is full (alarm NOSPACE), so that nothing can be changed; "
            "compact and defragment etcd, or raise its --quota-backend-bytes, and disarm the alarm"
        )
    return StoreUnavailableError(f"nothing was changed: {error}")


def _is_full(error: EtcdError) -> bool:
    return error.code == Code.RESOURCE_EXHAUSTED and "space exceeded" in error.text


def unknown(why: str) -> OutcomeUnknownError:
    """Return the error of a commit that may have been made."""
    return OutcomeUnknownError(
        f"it is not known whether the change was made: {why}; look before you repeat it"
    )


def _resolved(write: Write, answer: Answer, sent: float, attempts: Attempts) -> Written:
    """Return the commit, if it is what follows the expected head (invariant 3)."""
    if write.expected is None:
        return _resolved_first(write, answer, sent)
    try:
        head = decode(answer.head_value) if answer.revision else None
    except HeadError as error:
        raise unknown(f"the store cannot be read ({error})") from error
    if head is None:
        raise unknown("the store's head was deleted")
    if head.store != write.head.store:
        raise unknown("another store took its place")
    follower = successor_of(head.chain(answer.revision), write.expected)
    if continues(write.expected, answer.revision, head) is False:
        # In this history the expected head never was, so neither is what follows it.
        raise ConflictError
    if follower is None:
        follower = attempts.successor(write.expected, CommitId(answer.revision, head.id))
    if follower is None:
        raise unknown("there were too many other changes since")
    if follower.id != write.head.id:
        raise ConflictError
    return Written(follower, sent)


def _resolved_first(write: Write, answer: Answer, sent: float) -> Written:
    if not answer.revision:
        raise ConflictError
    try:
        head = decode(answer.head_value)
    except HeadError:
        raise ConflictError from None
    for found in head.chain(answer.revision):
        if found.id == write.head.id:
            return Written(found, sent)
    raise ConflictError
