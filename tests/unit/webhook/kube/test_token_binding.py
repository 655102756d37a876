"""The object that a requested token is bound to: Kubernetes' checks, in their order."""

from typing import Any

import pytest

from tests.bound_parts import StillSource
from tests.support import ACCOUNT, ACCOUNT_UID, AUDIENCE, ISSUER, NAMESPACE, NOW
from webhook.errors import (
    InvalidReviewError,
    IssueError,
    LeewayError,
    LookupUnavailableError,
    ObjectConflictError,
    ObjectNotFoundError,
)
from webhook.kube.token_binding import resolve_token_request
from webhook.kube.token_request import BoundObjectReference, TokenRequest
from webhook.token.bound_objects import Absence, Kind, Lookup, ObjectKey, ObjectState
from webhook.token.claims import ObjectReference
from webhook.token.issuer import TokenPolicy, TokenSpec, stable_uid

POLICY = TokenPolicy(ISSUER, (AUDIENCE,), 3600, 600, 86400, extend=True)
SA = ObjectKey(Kind.SERVICE_ACCOUNT, NAMESPACE, ACCOUNT)
POD = ObjectKey(Kind.POD, NAMESPACE, "p-0")
SECRET = ObjectKey(Kind.SECRET, NAMESPACE, "s-0")
NODE = ObjectKey(Kind.NODE, "", "n-0")
OBJECTS: dict[ObjectKey, Lookup] = {
    SA: ObjectState(ACCOUNT_UID),
    POD: ObjectState("u-pod", service_account=ACCOUNT, node="n-0"),
    SECRET: ObjectState("u-secret"),
    NODE: ObjectState("u-node"),
}


class Source(StillSource):
    """Objects in a dictionary; any other object is gone."""

    def __init__(self, objects: dict[ObjectKey, Lookup]) -> None:
        self.objects = objects
        self.asked: list[ObjectKey] = []

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        raise AssertionError("a request is never decided on what is known from before")

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        self.asked.append(key)
        return self.objects.get(key, Absence.GONE)


def reference(kind: str, name: str, uid: str = "", api_version: str = "v1") -> BoundObjectReference:
    return BoundObjectReference(kind, api_version, name, uid)


def resolve(
    source: Source | None,
    bound: BoundObjectReference | None = None,
    leeway: float = 60,
    **members: Any,
) -> tuple[TokenRequest, TokenSpec]:
    asked = TokenRequest(NAMESPACE, ACCOUNT, bound=bound, **members)
    return resolve_token_request(asked, POLICY, source, leeway, NOW)


def source_with(**changes: Lookup) -> Source:
    keys = {"sa": SA, "pod": POD, "secret": SECRET, "node": NODE}
    return Source(OBJECTS | {keys[name]: value for name, value in changes.items()})


POD_REFERENCE = ObjectReference("p-0", "u-pod")
NODE_REFERENCE = ObjectReference("n-0", "u-node")
FOUND = [
    pytest.param(None, {}, id="not-bound"),
    pytest.param(reference("Pod", "p-0"), {"pod": POD_REFERENCE, "node": NODE_REFERENCE}, id="pod"),
    pytest.param(
        reference("Pod", "p-0", "u-pod", ""),
        {"pod": POD_REFERENCE, "node": NODE_REFERENCE},
        id="pod-with-uid-and-without-version",
    ),
    pytest.param(
        reference("Secret", "s-0"), {"secret": ObjectReference("s-0", "u-secret")}, id="secret"
    ),
    pytest.param(reference("Node", "n-0", "u-node"), {"node": NODE_REFERENCE}, id="node"),
    *(
        pytest.param(
            reference("Secret", "s-0", "", version),
            {"secret": ObjectReference("s-0", "u-secret")},
            id=f"secret-of-version-{version}",
        )
        for version in ("v2", "/v1", "/", "a/b/c", "x" * 1000)
    ),
]


@pytest.mark.fault(62)
@pytest.mark.parametrize(("bound", "expected"), FOUND)
def test_found(bound: BoundObjectReference | None, expected: dict[str, Any]) -> None:
    answered, request = resolve(source_with(), bound, audiences=("a",), expiration_seconds=601)
    assert request == TokenSpec(
        NAMESPACE, ACCOUNT, ACCOUNT_UID, ("a",), 601, objects_confirmed=True, **expected
    )
    assert answered.uid == ACCOUNT_UID
    # As sent: the UID that was looked up is in the token only.
    assert answered.bound == bound


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        pytest.param(Absence.GONE, ObjectReference("n-0"), id="gone"),
        pytest.param(ObjectState("u", NOW - 61), ObjectReference("n-0"), id="deleted"),
        pytest.param(ObjectState("u", NOW - 60), ObjectReference("n-0", "u"), id="being-deleted"),
    ],
)
def test_node_of_a_pod(node: Lookup, expected: ObjectReference) -> None:
    assert resolve(source_with(node=node), reference("Pod", "p-0"))[1].node == expected


def test_pod_without_a_node() -> None:
    source = source_with(pod=ObjectState("u-pod", service_account=ACCOUNT))
    assert resolve(source, reference("Pod", "p-0"))[1].node is None
    assert source.asked == [SA, POD]


@pytest.mark.parametrize("kind", ["Pod", "Secret", "Node"])
def test_without_a_source_objects_are_not_checked(kind: str) -> None:
    answered, request = resolve(None, reference(kind, "x", "u"))
    assert request.uid == answered.uid == stable_uid(ISSUER, NAMESPACE, ACCOUNT)
    assert getattr(request, kind.lower()) == ObjectReference("x", "u")
    assert answered.bound == reference(kind, "x", "u")


DELETED = ObjectState("u-pod", NOW - 60.5, service_account=ACCOUNT)
NOT_FOUND = [
    pytest.param({"sa": Absence.GONE}, None, 'serviceaccounts "loofah" not found', id="sa"),
    pytest.param(
        {"sa": ObjectState("u", NOW - 61)}, None, 'serviceaccounts "loofah" not found', id="sa-old"
    ),
    pytest.param({}, reference("Pod", "other"), 'pods "other" not found', id="pod"),
    pytest.param({}, reference("Secret", "p-0"), 'secrets "p-0" not found', id="secret"),
    pytest.param({}, reference("Node", "n-1"), 'nodes "n-1" not found', id="node"),
    pytest.param({"pod": DELETED}, reference("Pod", "p-0"), 'pods "p-0" not found', id="deleted"),
    # No object has such a name.
    pytest.param({}, reference("Pod", "P"), 'pods "P" not found', id="upper-case"),
    pytest.param({}, reference("Pod", 'a"\n\0é'), 'pods "a\\"\\n\\x00é" not found', id="odd"),
    pytest.param({}, reference("Node", "a" * 300), f'nodes "{"a" * 256}" not found', id="long"),
]


@pytest.mark.bad_input(25)
@pytest.mark.parametrize(("objects", "bound", "message"), NOT_FOUND)
def test_not_found(
    objects: dict[str, Lookup], bound: BoundObjectReference | None, message: str
) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        resolve(source_with(**objects), bound)
    assert str(caught.value) == message


@pytest.mark.parametrize("deleted_at", [NOW + 30, NOW, NOW - 60])
def test_an_object_being_deleted_exists(deleted_at: float) -> None:
    state = ObjectState("u-pod", deleted_at, service_account=ACCOUNT)
    assert resolve(source_with(pod=state), reference("Pod", "p-0"))[1].pod == POD_REFERENCE


CONFLICTS = [
    pytest.param(
        reference("Pod", "p-0", "u-old"),
        {},
        'Operation cannot be fulfilled on Pod "p-0": the UID in the bound object reference (u-old) '
        "does not match the UID in record. The object might have been deleted and then recreated",
        id="pod",
    ),
    pytest.param(
        reference("Node", "n-0", "u"),
        {},
        'Operation cannot be fulfilled on Node "n-0": the UID in the bound object reference (u) '
        "does not match the UID in record. The object might have been deleted and then recreated",
        id="node",
    ),
    pytest.param(
        None,
        {"uid": "u-old"},
        'Operation cannot be fulfilled on TokenRequest.authentication.k8s.io "loofah": the UID in '
        "the token request (u-old) does not match the UID of the service account "
        f"({ACCOUNT_UID})",
        id="service-account",
    ),
]


@pytest.mark.bad_input(25)
@pytest.mark.parametrize(("bound", "members", "message"), CONFLICTS)
def test_another_uid(
    bound: BoundObjectReference | None, members: dict[str, Any], message: str
) -> None:
    with pytest.raises(ObjectConflictError) as caught:
        resolve(source_with(), bound, **members)
    assert str(caught.value) == message


@pytest.mark.parametrize("state", ["other", ""])
def test_pod_of_another_service_account(state: str) -> None:
    source = source_with(pod=ObjectState("u-pod", service_account=state))
    with pytest.raises(InvalidReviewError) as caught:
        resolve(source, reference("Pod", "p-0", "u-old"))
    assert str(caught.value) == (
        'cannot bind token for serviceaccount "loofah" to pod running with different '
        "serviceaccount name."
    )


KINDS = [
    ("apps/v1", "Deployment", "apps/v1, Kind=Deployment"),
    ("v1", "ConfigMap", "/v1, Kind=ConfigMap"),
    ("v1", "pod", "/v1, Kind=pod"),
    ("v1", "ServiceAccount", "/v1, Kind=ServiceAccount"),
    ("v2", "X", "/v2, Kind=X"),
    ("apps/v1", "Pod", "apps/v1, Kind=Pod"),
    ("v1/", "Pod", "v1/, Kind=Pod"),
    ("a/b/c", "X", "/, Kind=X"),
    ("/", "X", "/, Kind=X"),
    ("", "", "/, Kind="),
]


@pytest.mark.parametrize(("api_version", "kind", "shown"), KINDS)
@pytest.mark.parametrize("source", [None, source_with()], ids=["none", "source"])
def test_other_kinds(source: Source | None, api_version: str, kind: str, shown: str) -> None:
    with pytest.raises(InvalidReviewError) as caught:
        resolve(source, reference(kind, "p-0", "u", api_version))
    assert str(caught.value) == f"cannot bind token to object of type {shown}"


OUT_OF_RANGE: dict[str, tuple[dict[str, object], str, str]] = {
    "short": (
        {"expiration_seconds": 60},
        "spec.expirationSeconds",
        "may not specify a duration less than 10 minutes",
    ),
    "zero": (
        {"expiration_seconds": 0},
        "spec.expirationSeconds",
        "may not specify a duration less than 10 minutes",
    ),
    "long": (
        {"expiration_seconds": (1 << 32) + 1},
        "spec.expirationSeconds",
        "may not specify a duration larger than 2^32 seconds",
    ),
    "name": (
        {"sent_name": "other"},
        "metadata.name",
        "must match the service account name if specified",
    ),
}


@pytest.mark.parametrize(
    ("members", "field", "detail"), OUT_OF_RANGE.values(), ids=list(OUT_OF_RANGE)
)
@pytest.mark.parametrize("source", [None, source_with()], ids=["none", "source"])
def test_out_of_range(
    source: Source | None, members: dict[str, Any], field: str, detail: str
) -> None:
    with pytest.raises(IssueError) as caught:
        resolve(source, **members)
    assert (caught.value.field, caught.value.detail) == (field, detail)


NOT_A_NAME = {
    "": "Name parameter required.",
    ".": """Name parameter invalid: ".": may not be '.'""",
    "..": """Name parameter invalid: "..": may not be '..'""",
    "../p": """Name parameter invalid: "../p": may not contain '/'""",
    "a%b": """Name parameter invalid: "a%b": may not contain '%'""",
    "%/": """Name parameter invalid: "%/": may not contain '/';may not contain '%'""",
}


@pytest.mark.fault(62)
@pytest.mark.parametrize(("name", "message"), NOT_A_NAME.items())
@pytest.mark.parametrize("kind", ["Pod", "Secret", "Node"])
@pytest.mark.parametrize("source", [None, source_with()], ids=["none", "source"])
def test_a_name_that_is_not_one(source: Source | None, kind: str, name: str, message: str) -> None:
    with pytest.raises(InvalidReviewError) as caught:
        resolve(source, reference(kind, name, "u"))
    assert str(caught.value) == message


@pytest.mark.fault(62)
@pytest.mark.parametrize(
    ("namespace", "name", "message"),
    [
        (NAMESPACE, "Loofah", 'serviceaccounts "Loofah" not found'),
        (NAMESPACE, "a" * 254, f'serviceaccounts "{"a" * 254}" not found'),
        ("Argo", ACCOUNT, 'namespaces "Argo" not found'),
        ("a.b", "..", 'namespaces "a.b" not found'),
    ],
)
@pytest.mark.parametrize("source", [None, source_with()], ids=["none", "source"])
def test_names_that_nothing_can_have(
    source: Source | None, namespace: str, name: str, message: str
) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        resolve_token_request(TokenRequest(namespace, name), POLICY, source, 60, NOW)
    assert str(caught.value) == message


@pytest.mark.parametrize("uid", ["é", "a\n"])
def test_without_a_source_a_uid_is_printable_ascii(uid: str) -> None:
    with pytest.raises(IssueError) as caught:
        resolve(None, reference("Pod", "p-0", uid))
    assert caught.value.field == "spec.boundObjectRef.uid"
    with pytest.raises(ObjectConflictError):
        resolve(source_with(), reference("Pod", "p-0", uid))


def test_minimum_of_the_configuration() -> None:
    for minimum, shown in ((900, "15 minutes"), (601, "601 seconds")):
        policy = TokenPolicy(ISSUER, (AUDIENCE,), 3600, minimum, 86400, extend=True)
        asked = TokenRequest(NAMESPACE, ACCOUNT, expiration_seconds=600)
        with pytest.raises(IssueError) as caught:
            resolve_token_request(asked, policy, None, 60, NOW)
        assert caught.value.detail == f"may not specify a duration less than {shown}"


def test_without_a_source_a_uid_is_needed() -> None:
    with pytest.raises(IssueError) as caught:
        resolve(None, reference("Pod", "p-0"))
    assert caught.value.field == "spec.boundObjectRef.uid"
    assert caught.value.required


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("answer", [Absence.UNAVAILABLE, Absence.UNSEEN])
@pytest.mark.parametrize(
    ("objects", "name"),
    [("sa", "service account argo-run/loofah"), ("pod", "pod argo-run/p-0"), ("node", "node n-0")],
)
def test_the_look_up_fails(answer: Absence, objects: str, name: str) -> None:
    with pytest.raises(LookupUnavailableError, match=f"^{name} could not be looked up"):
        resolve(source_with(**{objects: answer}), reference("Pod", "p-0"))


# Each is also wrong in all later checks; the first failure is reported.
ORDER: list[tuple[dict[ObjectKey, Lookup], dict[str, object], type[LeewayError], str]] = [
    ({}, {"sent_namespace": "x", "sent_name": "x"}, InvalidReviewError, "the namespace of the"),
    ({}, {"sent_name": "x", "uid": "x"}, IssueError, "must match the service account name"),
    ({}, {"uid": "x", "expiration_seconds": 1}, ObjectNotFoundError, "serviceaccounts"),
    (OBJECTS, {"uid": "x", "expiration_seconds": 1}, ObjectConflictError, "token request"),
    (OBJECTS, {"expiration_seconds": 1, "bound": reference("X", "")}, IssueError, "duration"),
    (OBJECTS, {"bound": reference("X", "")}, InvalidReviewError, "of type"),
    (OBJECTS, {"bound": reference("Pod", "", "x")}, InvalidReviewError, "Name parameter"),
    (OBJECTS, {"bound": reference("Pod", "gone", "x")}, ObjectNotFoundError, "pods"),
    # An audience is checked when the token is made, after all of these.
    (OBJECTS, {"bound": reference("Pod", "gone"), "audiences": ("",)}, ObjectNotFoundError, "pods"),
]


@pytest.mark.fault(62)
@pytest.mark.parametrize(
    ("objects", "members", "error", "words"), ORDER, ids=[str(n) for n in range(1, 10)]
)
def test_order_of_the_checks(
    objects: dict[ObjectKey, Lookup],
    members: dict[str, Any],
    error: type[LeewayError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        resolve(Source(objects), **members)
