"""Look-ups beside the event loop: one for many, bounded, and never in the way."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.bound_parts import POD, SA, UIDS, StillSource, bound_token
from tests.memory_backend import MemoryBackend
from tests.support import (
    ACCOUNT_UID,
    NOW,
    assert_accepted,
    assert_refused,
    authenticator_with,
    good_claims,
    token_of,
    until,
)
from tests.unit.webhook.server.caller_parts import request_on
from webhook.errors import Reason
from webhook.rbac.auth_store import AuthStore
from webhook.server.request.message import settled
from webhook.server.request.verifier import LOOKUP_SECONDS, TokenVerifier
from webhook.token.bound_objects import Absence, Lookup, ObjectKey, ObjectState
from webhook.token.outcome import Outcome


@dataclass
class Source(StillSource):
    """Knows nothing, and answers look-ups when it is let."""

    answers: dict[ObjectKey, Lookup] = field(
        default_factory=lambda: {key: ObjectState(UIDS[key]) for key in (SA, POD)}
    )
    known: dict[ObjectKey, Lookup] = field(default_factory=dict)
    asked: list[tuple[ObjectKey, str]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        return self.known.get(key, Absence.UNSEEN)

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        self.asked.append((key, uid))
        self.may_answer.wait(30)
        return self.answers.get(key, Absence.GONE)


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    yield made
    made.may_answer.set()


def verifier_with(source: Source) -> TokenVerifier:
    return TokenVerifier(authenticator_with(objects=source), lambda: NOW, source)


async def outcome_of(verifier: TokenVerifier, token: str = "") -> Outcome:
    request = request_on(AuthStore.loaded(MemoryBackend()))
    outcome: Outcome = await settled(verifier.authenticate(token or pod_token(), [], request))
    return outcome


def pod_token(jti: str = "j", uid: str = "") -> str:
    return bound_token(POD, uid=uid, jti=jti)


def test_every_object_is_looked_up_once(source: Source) -> None:
    source.may_answer.set()
    assert_accepted(asyncio.run(outcome_of(verifier_with(source))))
    assert source.asked == [(SA, ACCOUNT_UID), (POD, "u-pod")]


def test_what_is_known_is_not_looked_up(source: Source) -> None:
    source.known = dict(source.answers)
    assert_accepted(asyncio.run(outcome_of(verifier_with(source))))
    assert source.asked == []


def test_many_tokens_wait_for_one_look_up(source: Source) -> None:
    source.known[SA] = ObjectState(ACCOUNT_UID)

    async def run() -> list[Outcome]:
        verifier = verifier_with(source)
        reviews = [
            asyncio.create_task(outcome_of(verifier, pod_token(str(number))))
            for number in range(50)
        ]
        await until(lambda: len(source.asked) > 0)
        await asyncio.sleep(0.05)
        source.may_answer.set()
        outcomes = await asyncio.gather(*reviews)
        # Answered means forgotten: the next one asks again.
        outcomes.append(await outcome_of(verifier, pod_token("last")))
        return outcomes

    for outcome in asyncio.run(run()):
        assert_accepted(outcome)
    assert source.asked == [(POD, "u-pod")] * 2


def test_another_uid_waits_for_a_look_up_of_its_own(source: Source) -> None:
    source.known[SA] = ObjectState(ACCOUNT_UID)

    async def run() -> tuple[Outcome, Outcome]:
        verifier = verifier_with(source)
        first = asyncio.create_task(outcome_of(verifier))
        await until(lambda: len(source.asked) == 1)
        second = asyncio.create_task(outcome_of(verifier, pod_token(uid="new")))
        await until(lambda: len(source.asked) == 2)
        source.may_answer.set()
        return await first, await second

    first, second = asyncio.run(run())
    assert_accepted(first)
    assert_refused(second, "", Reason.UID_MISMATCH)
    assert source.asked == [(POD, "u-pod"), (POD, "new")]


@pytest.mark.bad_input(25)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Absence.GONE, Reason.BOUND_OBJECT_GONE),
        (Absence.UNAVAILABLE, Reason.LOOKUP_FAILED),
        (ObjectState("other"), Reason.UID_MISMATCH),
    ],
)
def test_what_the_look_up_says(source: Source, answer: Lookup, reason: Reason) -> None:
    source.may_answer.set()
    source.answers[POD] = answer
    token = pod_token()
    outcome = asyncio.run(outcome_of(verifier_with(source), token))
    assert_refused(outcome, token, reason)


@pytest.mark.bad_input(25)
def test_a_look_up_without_end(source: Source) -> None:
    """The bound is the requirement; meanwhile the event loop goes on."""
    source.known[SA] = ObjectState(ACCOUNT_UID)

    async def run() -> tuple[Outcome, float, Outcome]:
        verifier = verifier_with(source)
        started = time.monotonic()
        waiting = asyncio.create_task(outcome_of(verifier))
        await until(lambda: len(source.asked) == 1)
        meanwhile = await outcome_of(verifier, token_of(good_claims()))
        assert not waiting.done()
        outcome = await waiting
        took = time.monotonic() - started
        source.may_answer.set()
        return outcome, took, meanwhile

    outcome, took, meanwhile = asyncio.run(run())
    assert_accepted(meanwhile)
    assert_refused(outcome, pod_token(), Reason.LOOKUP_FAILED)
    assert LOOKUP_SECONDS - 0.1 <= took < LOOKUP_SECONDS + 1


def test_both_look_ups_of_a_token_share_the_bound(source: Source) -> None:
    """A service account that answers late leaves its Pod no more time than there was."""
    source.answers[SA] = ObjectState(ACCOUNT_UID)

    async def run() -> float:
        verifier = verifier_with(source)
        started = time.monotonic()
        waiting = asyncio.create_task(outcome_of(verifier))
        await asyncio.sleep(LOOKUP_SECONDS / 2)
        source.may_answer.set()
        await until(lambda: len(source.asked) == 1)
        source.may_answer.clear()
        outcome = await waiting
        source.may_answer.set()
        assert_refused(outcome, pod_token(), Reason.LOOKUP_FAILED)
        return time.monotonic() - started

    assert asyncio.run(run()) < LOOKUP_SECONDS + 1
    assert source.asked == [(SA, ACCOUNT_UID), (POD, "u-pod")]
