"""The objects that a token is bound to: Kubernetes' checks and phrases."""

from dataclasses import dataclass, field

import pytest

from tests.bound_parts import NODE, POD, SA, SECRET, UIDS, StillSource, bound_token
from tests.support import (
    ISSUER,
    LEEWAY,
    NOW,
    assert_accepted,
    assert_refused,
    authenticator_with,
    token_of,
)
from webhook.errors import Reason
from webhook.token.bound_objects import (
    Absence,
    Lookup,
    LookupNeeded,
    Lookups,
    ObjectKey,
    ObjectState,
)
from webhook.token.explain import FAIL, explain
from webhook.token.outcome import Outcome

WORDS = {
    SA: "service account argo-run/loofah",
    POD: "pod argo-run/p-0",
    SECRET: "secret argo-run/s-0",
    NODE: "node n-0",
}
KEYS = [pytest.param(key, id=str(key.kind)) for key in UIDS]


@dataclass
class Source(StillSource):
    """Objects in a dictionary; records what it is asked."""

    objects: dict[ObjectKey, Lookup] = field(
        default_factory=lambda: {key: ObjectState(uid) for key, uid in UIDS.items()}
    )
    found: list[tuple[ObjectKey, str]] = field(default_factory=list)

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        self.found.append((key, uid))
        return self.objects.get(key, Absence.GONE)

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        raise AssertionError("nothing in the authenticator waits")


def review(source: Source, token: str, now: float = NOW, answers: Lookups | None = None) -> Outcome:
    return authenticator_with(objects=source).authenticate(token, [], now, answers or {})


def token_for(key: ObjectKey) -> str:
    return bound_token() if key is SA else bound_token(key)


def gone_reason(key: ObjectKey) -> Reason:
    return Reason.SERVICE_ACCOUNT_GONE if key is SA else Reason.BOUND_OBJECT_GONE


ASKED = [
    pytest.param((), [SA], id="not-bound"),
    pytest.param((POD,), [SA, POD], id="pod"),
    pytest.param((POD, NODE), [SA, POD], id="the-node-of-a-pod-is-not-checked"),
    pytest.param((SECRET,), [SA, SECRET], id="secret"),
    pytest.param((NODE,), [SA, NODE], id="node"),
]


@pytest.mark.parametrize(("bound", "expected"), ASKED)
def test_objects_that_are_checked(bound: tuple[ObjectKey, ...], expected: list[ObjectKey]) -> None:
    source = Source()
    assert_accepted(review(source, bound_token(*bound)))
    assert source.found == [(key, UIDS[key]) for key in expected]


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", KEYS)
def test_deleted(key: ObjectKey) -> None:
    source = Source()
    source.objects[key] = Absence.GONE
    token = token_for(key)
    text = assert_refused(review(source, token), token, gone_reason(key))
    assert f"{WORDS[key]} has been deleted: no object has that name" in text


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("ago", [-3600.0, 0.0, 59.0, 60.0, 60.5, 61.0, 86400.0])
def test_being_deleted(key: ObjectKey, ago: float) -> None:
    source = Source()
    source.objects[key] = ObjectState(UIDS[key], NOW - ago)
    token = token_for(key)
    outcome = review(source, token)
    if ago <= 60:
        assert_accepted(outcome)
    else:
        text = assert_refused(outcome, token, gone_reason(key))
        assert f"its deletionTimestamp was {int(ago)}s ago (leeway 60s)" in text


PHRASES = {
    SA: "service account UID (other) does not match claim (66bff4eb-5231-4bfa-b116-b20312443c46)",
    POD: "pod UID (other) does not match service account pod ref claim (u-pod)",
    SECRET: "secret UID (other) does not match service account secret ref claim (u-secret)",
    NODE: "node UID (other) does not match service account node ref claim (u-node)",
}


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", KEYS)
def test_recreated(key: ObjectKey) -> None:
    source = Source()
    source.objects[key] = ObjectState("other")
    token = token_for(key)
    text = assert_refused(review(source, token), token, Reason.UID_MISMATCH)
    assert text == f"{PHRASES[key]}: {WORDS[key]} was deleted and made again"


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", KEYS)
def test_the_look_up_fails(key: ObjectKey) -> None:
    source = Source()
    source.objects[key] = Absence.UNAVAILABLE
    token = token_for(key)
    text = assert_refused(review(source, token), token, Reason.LOOKUP_FAILED)
    assert f"{WORDS[key]} could not be looked up; try again" in text


@pytest.mark.bad_input(26)
@pytest.mark.parametrize("bound", [(POD, SECRET), (SECRET, NODE), (POD, SECRET, NODE)])
def test_bound_to_two_existing_objects(bound: tuple[ObjectKey, ...]) -> None:
    source = Source()
    token = bound_token(*bound)
    assert_refused(review(source, token), token, Reason.MALFORMED)
    assert source.found == []


@pytest.mark.parametrize("key", KEYS)
def test_an_unseen_object_must_be_looked_up(key: ObjectKey) -> None:
    source = Source()
    source.objects[key] = Absence.UNSEEN
    token = token_for(key)
    with pytest.raises(LookupNeeded) as needed:
        review(source, token)
    assert (needed.value.key, needed.value.uid) == (key, UIDS[key])
    assert_accepted(review(source, token, answers={key: ObjectState(UIDS[key])}))
    for answer, reason in (
        (Absence.GONE, gone_reason(key)),
        (Absence.UNAVAILABLE, Reason.LOOKUP_FAILED),
        (ObjectState("other"), Reason.UID_MISMATCH),
    ):
        assert_refused(review(source, token, answers={key: answer}), token, reason)


def test_nothing_about_objects_is_cached() -> None:
    source = Source()
    authenticator = authenticator_with(objects=source)
    token = bound_token(POD)
    for answer, reason in (
        (ObjectState("u-pod"), None),
        (Absence.GONE, Reason.BOUND_OBJECT_GONE),
        (ObjectState("other"), Reason.UID_MISMATCH),
        (Absence.UNAVAILABLE, Reason.LOOKUP_FAILED),
        (ObjectState("u-pod"), None),
    ):
        source.objects[POD] = answer
        outcome = authenticator.authenticate(token, [], NOW)
        if reason is None:
            assert_accepted(outcome)
        else:
            assert_refused(outcome, token, reason)


LEGACY = "kubernetes.io/serviceaccount/"
MARKED = ObjectState(UIDS[SECRET], is_marked_invalid=True)


def legacy_token() -> str:
    claims = {
        "iss": ISSUER,
        "sub": f"system:serviceaccount:{SA.namespace}:{SA.name}",
        f"{LEGACY}namespace": SA.namespace,
        f"{LEGACY}secret.name": SECRET.name,
        f"{LEGACY}service-account.name": SA.name,
        f"{LEGACY}service-account.uid": UIDS[SA],
    }
    return token_of(claims)


def review_legacy(source: Source, token: str) -> Outcome:
    return authenticator_with(objects=source, legacy=True).authenticate(token, [], NOW)


@pytest.mark.bad_input(25)
@pytest.mark.fault(6)
def test_a_legacy_token_whose_secret_is_marked_invalid() -> None:
    source, token = Source(), legacy_token()
    assert_accepted(review_legacy(source, token))
    source.objects[SECRET] = MARKED
    outcome = review_legacy(source, token)
    assert assert_refused(outcome, token, Reason.REVOKED) == (
        "the token in secret argo-run/s-0 for service account argo-run/loofah has been marked "
        "invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or "
        "remove the 'kubernetes.io/legacy-token-invalid-since' label from the secret to "
        "temporarily allow use of this token"
    )
    told = explain(token, outcome, LEEWAY, NOW, looks_up_objects=True)
    assert [check.name for check in told.checks if check.result == FAIL] == ["objects"]
    assert "marked its Secret as invalid" in told.advice
    # A deleted object is reported first.
    source.objects[SA] = Absence.GONE
    assert_refused(review_legacy(source, token), token, Reason.SERVICE_ACCOUNT_GONE)


@pytest.mark.fault(6)
def test_a_marked_secret_ends_legacy_tokens_only() -> None:
    source = Source()
    source.objects[SECRET] = MARKED
    assert_accepted(review_legacy(source, bound_token(SECRET)))
