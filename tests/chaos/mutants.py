"""Mistakes in the store's code, put into it by tests: the judge has to find each of them.

Each name is one mistake of the design's first version, or of a careless reading of it.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest

from webhook.backends import etcd_commit
from webhook.backends.etcd import EtcdBackend
from webhook.backends.etcd_commit import Write, Written
from webhook.backends.etcd_follow import Follower, HeadRead, Loaded
from webhook.backends.etcd_following import Following
from webhook.backends.etcd_head import CommitId, Head
from webhook.backends.etcd_requests import ReadHead, Requests
from webhook.backends.etcd_writer import Writer
from webhook.etcd import calls
from webhook.etcd.values import Header
from webhook.rbac.basis import Basis
from webhook.rbac.records import BasisLostError, ConflictError, Record
from webhook.rbac.state import AuthState
from webhook.rbac.state_follower import StateFollower

_REST_SECONDS = 0.3


def proof_after_the_answer(patch: pytest.MonkeyPatch) -> None:
    """The time of a read is taken when its answer is here."""
    read = Following.read

    def later(self: Following, follower: Follower, found: HeadRead, header: Header) -> bool:
        return read(self, follower, found._replace(sent=self._clock()), header)

    patch.setattr(Following, "read", later)


def serializable_read(patch: pytest.MonkeyPatch) -> None:
    """The head is read from one member, without a majority and whether or not it has a leader."""

    def read_head(
        self: Requests, timeout: float, *, hedge: float | None = None, endpoint: str = ""
    ) -> ReadHead:
        answer = self.client.range(
            self._layout.head, timeout=timeout, serializable=True, endpoint=endpoint or None
        )
        return ReadHead(answer.kvs[0] if answer.kvs else None, answer.header, answer.endpoint)

    patch.setattr(Requests, "read_head", read_head)
    patch.setattr(calls, "_LEADER", ())


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """An unknown outcome is settled with a read."""
    fence = Writer._fence

    def look(self: Writer, old: Loaded) -> Write:
        return fence(self, old)._replace(is_look=True)

    patch.setattr(Writer, "_fence", look)


def refused_is_conflict(patch: pytest.MonkeyPatch) -> None:
    """Whoever is refused takes it for somebody else's commit."""

    def resolved(*_given: object) -> Written:
        raise ConflictError

    patch.setattr(etcd_commit, "_resolved", resolved)


def revision_without_id(patch: pytest.MonkeyPatch) -> None:
    """Two commits with one revision are the same commit."""

    def is_same(self: CommitId, other: object) -> bool:
        return isinstance(other, CommitId) and self.revision == other.revision

    def require_next(self: Follower, _revision: int, head: Head) -> None:
        assert head.previous.revision == self.commit.revision

    patch.setattr(CommitId, "__eq__", is_same)
    patch.setattr(Follower, "_require_known", lambda _self, _commit: None)
    patch.setattr(Follower, "_require_next", require_next)


def global_proof(patch: pytest.MonkeyPatch) -> None:
    """Only the store's proof at the end counts, not that of the state that an answer rests on."""

    def unproven(self: StateFollower, basis: Basis, _since: float) -> Basis:
        return basis

    def confirm(self: StateFollower, _basis: Basis) -> None:
        proof = self._backend.proven(self.state.revision)
        if not self._clock() - proof <= self._backend.max_staleness:
            raise BasisLostError

    patch.setattr(StateFollower, "_proven", unproven)
    patch.setattr(StateFollower, "confirm", confirm)


def half_a_group(patch: pytest.MonkeyPatch) -> None:
    """The records of a commit are applied in two steps."""
    apply = AuthState.apply

    def in_two(self: AuthState, revision: int, records: Iterable[Record]) -> None:
        given: Sequence[Record] = list(records)
        half = len(given) // 2 if self.revision else len(given)
        apply(self, revision, given[:half])
        if half < len(given):
            threading.Timer(_REST_SECONDS, apply, (self, revision, given[half:])).start()

    patch.setattr(AuthState, "apply", in_two)


def no_read_before_deciding(patch: pytest.MonkeyPatch) -> None:
    """A change is decided on what the watch has brought so far."""
    patch.setattr(EtcdBackend, "_catch_up", lambda _self: True)


def none(patch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong."""


Mutant = Callable[[pytest.MonkeyPatch], None]
RULES: Mapping[Mutant, tuple[int, ...]] = {
    proof_after_the_answer: (5,),
    serializable_read: (5,),
    no_fence: (2,),
    refused_is_conflict: (2,),
    revision_without_id: (5,),
    global_proof: (5,),
    half_a_group: (5,),
    no_read_before_deciding: (4,),
}
"""Each mutant, and the rules that find it."""
