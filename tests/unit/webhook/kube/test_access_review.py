"""SubjectAccessReview and the Self reviews: requests and answers."""

import json

import pytest

from tests.support import as_json
from webhook.errors import InvalidObjectError, InvalidReviewError
from webhook.kube.access_review import (
    SELF_KIND,
    SUBJECT_KIND,
    WHO_AM_I_KIND,
    AccessReviewRequest,
    UserInfo,
    message_of,
    parse_access_review,
    parse_who_am_i,
    render_access_review,
    render_who_am_i,
)
from webhook.kube.protobuf import json_of
from webhook.kube.request_keys import Attributes, NonResourceAttributes, ResourceAttributes
from webhook.server.request.errors import details_of

V1 = "authorization.k8s.io/v1"
V1BETA1 = "authorization.k8s.io/v1beta1"
KINDS = (SUBJECT_KIND, SELF_KIND)
POD = {"namespace": "team", "verb": "get", "resource": "pods", "name": "p-0"}
GET_POD = ResourceAttributes("get", "", "pods", "", "team", "p-0")
HEALTHZ = {"path": "/healthz", "verb": "get"}


def body(kind: str = SUBJECT_KIND, spec: object = None, **changes: object) -> dict[str, object]:
    if spec is None:
        spec = {"resourceAttributes": POD} | ({"user": "alice"} if kind == SUBJECT_KIND else {})
    return {"kind": kind, "apiVersion": V1, "spec": spec} | changes


def parse(value: object, kind: str = SUBJECT_KIND) -> AccessReviewRequest:
    return parse_access_review(value if isinstance(value, bytes) else as_json(value), kind)


READ: dict[str, tuple[dict[str, object], Attributes, tuple[str, tuple[str, ...]]]] = {
    "resource": ({"resourceAttributes": POD, "user": "alice"}, GET_POD, ("alice", ())),
    # As kube-apiserver sends it (k8s.io/apiserver/plugin/pkg/authorizer/webhook).
    "kube-apiserver": (
        {
            "resourceAttributes": {
                "namespace": "team",
                "verb": "get",
                "group": "apps",
                "version": "v1",
                "resource": "deployments",
                "subresource": "scale",
                "name": "d",
            },
            "user": "alice",
            "group": ["kept in no version"],
            "groups": ["a", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=1"]},
            "uid": "u",
        },
        ResourceAttributes("get", "apps", "deployments", "scale", "team", "d"),
        ("alice", ("a", "system:authenticated")),
    ),
    "path": ({"nonResourceAttributes": HEALTHZ, "user": "a"},
             NonResourceAttributes("get", "/healthz"), ("a", ())),
    "only-groups": ({"resourceAttributes": POD, "groups": ["a"]}, GET_POD, ("", ("a",))),
    "nulls": (
        {
            "resourceAttributes": POD | {"group": None, "subresource": None},
            "nonResourceAttributes": None,
            "user": "alice",
            "groups": None,
            "extra": None,
            "uid": None,
        },
        GET_POD,
        ("alice", ()),
    ),
    "nothing-of-a-resource": ({"resourceAttributes": {}, "user": "a"}, ResourceAttributes(""),
                              ("a", ())),
    "nothing-of-a-path": ({"nonResourceAttributes": {}, "user": "a"}, NonResourceAttributes(""),
                          ("a", ())),
    # A narrower list is requested; the answer is that for the complete list.
    "selectors": (
        {
            "resourceAttributes": POD | {
                "verb": "list",
                "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In",
                                                    "values": ["n-1"]}]},
                "labelSelector": {"rawSelector": "a=b"},
            },
            "user": "a",
        },
        ResourceAttributes("list", "", "pods", "", "team", "p-0"),
        ("a", ()),
    ),
    "odd-texts": ({"resourceAttributes": POD | {"name": "é\0"}, "user": "a\nb"},
                  ResourceAttributes("get", "", "pods", "", "team", "é\0"), ("a\nb", ())),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "request_", "subject"), READ.values(), ids=READ)
def test_read(
    spec: dict[str, object], request_: Attributes, subject: tuple[str, tuple[str, ...]]
) -> None:
    asked = parse(body(spec=spec))
    assert (asked.request, (asked.user, asked.groups)) == (request_, subject)
    answer = json.loads(render_access_review(asked, "why", allowed=True))
    # The request is returned unchanged.
    assert answer["spec"] == spec
    own = {name: value for name, value in spec.items() if name.endswith("Attributes")}
    asked = parse(body(SELF_KIND, own), SELF_KIND)
    assert (asked.request, asked.user, asked.groups) == (request_, "", ())


@pytest.mark.parametrize("kind", KINDS)
def test_optional_members(kind: str) -> None:
    whole = body(kind)
    expected = parse(whole, kind)
    assert expected.request == GET_POD
    for changes in (
        {"kind": None},
        {"apiVersion": ""},
        {"metadata": None},
        {"metadata": {"creationTimestamp": None}},
        {"status": {"allowed": True, "reason": "because I say so"}},
        {"status": "nonsense"},
    ):
        assert parse(whole | changes, kind) == expected
    assert parse({"spec": whole["spec"]}, kind) == expected


@pytest.mark.bad_input(29)
@pytest.mark.fault(1)
@pytest.mark.parametrize("path", ["v1", "v1beta1"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "left-out"])
@pytest.mark.parametrize(
    ("sent", "groups"), [(V1, ("in-v1",)), (V1BETA1, ("in-v1beta1", "second"))]
)
def test_the_version_of_the_body_decides(
    sent: str, groups: tuple[str, ...], path: str, named: bool
) -> None:
    """Each version has its own name for the groups; the other's is an unknown field."""
    spec = {
        "resourceAttributes": POD,
        "user": "a",
        "groups": ["in-v1"],
        "group": ["in-v1beta1", "second"],
    }
    value = body(spec=spec, apiVersion=sent)
    if not named:
        path = sent.rpartition("/")[2]
        value.pop("apiVersion")
    asked = parse_access_review(as_json(value), SUBJECT_KIND, path)
    assert asked.groups == groups
    answer = json.loads(render_access_review(asked, "", allowed=False))
    assert (answer["apiVersion"], answer["spec"]) == (sent, spec)


@pytest.mark.bad_input(29)
def test_the_self_review_has_one_version() -> None:
    with pytest.raises(InvalidReviewError, match=f"serves '{V1}'$"):
        parse(body(SELF_KIND, apiVersion=V1BETA1), SELF_KIND)


@pytest.mark.bad_input(30)
def test_a_status_of_the_client_is_ignored() -> None:
    asked = parse(body(status={"allowed": True, "denied": True, "evaluationError": "x"}))
    answer = json.loads(render_access_review(asked, "why not", allowed=False))
    assert answer["status"] == {"allowed": False, "reason": "why not"}


WRONG: dict[str, tuple[object, str]] = {
    "27-no-spec": ({"kind": SUBJECT_KIND, "apiVersion": V1}, "spec must be an object"),
    "27-null-spec": ({"spec": None}, "spec must be an object"),
    "27-list": (body(spec=[]), "spec must be an object"),
    "27-user-number": (body(spec={"user": 1, "resourceAttributes": POD}), "spec.user must be"),
    "27-user-list": (body(spec={"user": ["a"], "resourceAttributes": POD}), "spec.user must be"),
    "27-groups-text": (
        body(spec={"user": "a", "groups": "b", "resourceAttributes": POD}),
        "spec.groups must be a list of strings",
    ),
    "27-groups-numbers": (
        body(spec={"user": "a", "groups": [1], "resourceAttributes": POD}),
        "spec.groups must be a list of strings",
    ),
    "27-resource-text": (
        body(spec={"user": "a", "resourceAttributes": "pods"}),
        "spec.resourceAttributes must be an object",
    ),
    "27-resource-list": (
        body(spec={"user": "a", "resourceAttributes": [POD]}),
        "spec.resourceAttributes must be an object",
    ),
    "27-resource-false": (
        body(spec={"user": "a", "resourceAttributes": False}),
        "spec.resourceAttributes must be an object",
    ),
    "27-path-text": (
        body(spec={"user": "a", "nonResourceAttributes": "/healthz"}),
        "spec.nonResourceAttributes must be an object",
    ),
    "27-verb-number": (
        body(spec={"user": "a", "resourceAttributes": POD | {"verb": 1}}),
        "spec.resourceAttributes.verb must be a string",
    ),
    "27-namespace-list": (
        body(spec={"user": "a", "resourceAttributes": POD | {"namespace": ["a"]}}),
        "spec.resourceAttributes.namespace must be a string",
    ),
    "27-path-number": (
        body(spec={"user": "a", "nonResourceAttributes": {"path": 1}}),
        "spec.nonResourceAttributes.path must be a string",
    ),
    "27-groups-empty-text": (
        body(spec={"user": "a", "groups": "", "resourceAttributes": POD}),
        "spec.groups must be a list of strings",
    ),
    "27-uid-number": (
        body(spec={"user": "a", "uid": 5, "resourceAttributes": POD}),
        "spec.uid must be a string",
    ),
    "27-extra-text": (
        body(spec={"user": "a", "extra": "x", "resourceAttributes": POD}),
        "spec.extra must be an object",
    ),
    "27-extra-of-texts": (
        body(spec={"user": "a", "extra": {"scopes": "x"}, "resourceAttributes": POD}),
        "spec.extra.scopes must be a list of strings",
    ),
    "27-version-number": (
        body(spec={"user": "a", "resourceAttributes": POD | {"version": 5}}),
        "spec.resourceAttributes.version must be a string",
    ),
    "27-selector-number": (
        body(spec={"user": "a", "resourceAttributes": POD | {"fieldSelector": 3}}),
        "spec.resourceAttributes.fieldSelector must be an object",
    ),
    "28-spec-twice": (b'{"spec":{},"spec":{}}', "appears twice"),
    "28-user-twice": (b'{"spec":{"user":"a","user":"root"}}', "appears twice"),
    "28-verb-twice": (
        b'{"spec":{"user":"a","resourceAttributes":{"verb":"get","verb":"delete"}}}',
        "appears twice",
    ),
    "28-Spec": ({"Spec": {}}, "it is written spec"),
    "28-User": (body(spec={"User": "a", "resourceAttributes": POD}), "written spec.user"),
    "28-GROUPS": (
        body(spec={"user": "a", "GROUPS": [], "resourceAttributes": POD}),
        "written spec.groups",
    ),
    "28-resourceattributes": (
        body(spec={"user": "a", "resourceattributes": POD}),
        "written spec.resourceAttributes",
    ),
    "28-Namespace": (
        body(spec={"user": "a", "resourceAttributes": {"verb": "get", "Namespace": "team"}}),
        "written spec.resourceAttributes.namespace",
    ),
    "28-Path": (
        body(spec={"user": "a", "nonResourceAttributes": {"Path": "/"}}),
        "written spec.nonResourceAttributes.path",
    ),
    "29-kind": (body(kind="TokenReview"), f"serves '{SUBJECT_KIND}'"),
    "29-self": (body(kind=SELF_KIND), f"serves '{SUBJECT_KIND}'"),
    "29-local": (body(kind="LocalSubjectAccessReview"), f"serves '{SUBJECT_KIND}'"),
    "29-alpha": (body(apiVersion="authorization.k8s.io/v1alpha1"), f"serves '{V1}' and"),
    "29-beta-groups": (
        body(apiVersion=V1BETA1, spec={"user": "a", "group": "b", "resourceAttributes": POD}),
        "spec.group must be a list of strings",
    ),
    "28-beta-Group": (
        body(apiVersion=V1BETA1, spec={"user": "a", "Group": ["b"], "resourceAttributes": POD}),
        "written spec.group",
    ),
    "29-group": (body(apiVersion="authentication.k8s.io/v1"), f"serves '{V1}'"),
    "29-number": (body(apiVersion=1), "not a string"),
    "31-empty": (b"", "not JSON"),
    "31-text": (b"pods", "not JSON"),
    "31-list": ([body()], "not a JSON object"),
    "31-utf-16": (json.dumps(body()).encode("utf-16"), "not JSON"),
    "31-deep": (b'{"spec":' * 100_000, "not JSON"),
    "31-cut": (as_json(body())[:-1], "not JSON"),
    "31-lone-surrogate": (b'{"spec":{"user":"\\ud800"}}', "not JSON"),
}


@pytest.mark.bad_input(27, 28, 29, 30, 31)
@pytest.mark.parametrize(("value", "why"), WRONG.values(), ids=WRONG)
def test_bodies_that_are_not_a_review(value: object, why: str) -> None:
    with pytest.raises(InvalidReviewError, match=why) as caught:
        parse(value)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def invalid(field: str, message: str) -> dict[str, str]:
    return {"reason": "FieldValueInvalid", "message": message, "field": field}


ONE = invalid(
    "spec.resourceAttributes",
    "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be "
    "specified",
)
NOT_BOTH = invalid(
    "spec.nonResourceAttributes",
    'Invalid value: {"path":"/healthz","verb":"get"}: cannot be specified in combination with '
    "resourceAttributes",
)
SOMEBODY = invalid(
    "spec.user", 'Invalid value: "": at least one of user or group must be specified'
)


# pkg/apis/authorization/validation/validation.go, in its order.
@pytest.mark.parametrize(
    ("kind", "spec", "causes"),
    [
        (SUBJECT_KIND, {"user": "a"}, [ONE]),
        (SUBJECT_KIND, {"user": "a", "resourceAttributes": None}, [ONE]),
        (
            SUBJECT_KIND,
            {"user": "a", "resourceAttributes": POD, "nonResourceAttributes": HEALTHZ},
            [NOT_BOTH],
        ),
        (SUBJECT_KIND, {"resourceAttributes": POD}, [SOMEBODY]),
        (SUBJECT_KIND, {"user": "", "groups": [], "resourceAttributes": POD}, [SOMEBODY]),
        (SUBJECT_KIND, {}, [ONE, SOMEBODY]),
        (
            SUBJECT_KIND,
            {"resourceAttributes": POD, "nonResourceAttributes": HEALTHZ},
            [NOT_BOTH, SOMEBODY],
        ),
        (SELF_KIND, {}, [ONE]),
        (SELF_KIND, {"resourceAttributes": POD, "nonResourceAttributes": HEALTHZ}, [NOT_BOTH]),
    ],
)
def test_reviews_with_no_or_two_requests(
    kind: str, spec: dict[str, object], causes: list[dict[str, str]]
) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        parse(body(kind, spec), kind)
    assert details_of(caught.value) == {
        "group": "authorization.k8s.io",
        "kind": kind,
        "causes": causes,
    }
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    # apimachinery/pkg/api/errors, NewInvalid: several stand in brackets.
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    assert str(caught.value) == f'{kind}.authorization.k8s.io "" is invalid: {text}'


def test_a_long_value_is_shortened() -> None:
    spec = {"resourceAttributes": {}, "nonResourceAttributes": {"path": "/" * 100_000}}
    with pytest.raises(InvalidObjectError) as caught:
        parse(body(SELF_KIND, spec), SELF_KIND)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_answer_yes(kind: str) -> None:
    asked = parse(body(kind), kind)
    answer = json.loads(render_access_review(asked, "granted by role viewers", allowed=True))
    assert answer == {
        "kind": kind,
        "apiVersion": V1,
        "metadata": {"creationTimestamp": None},
        "spec": asked.spec,
        "status": {"allowed": True, "reason": "granted by role viewers"},
    }


def test_answer_no() -> None:
    """Never ``denied``, as another authorizer may allow it. A self review gives no reason."""
    for kind in KINDS:
        asked = parse(body(kind), kind)
        answer = json.loads(render_access_review(asked, "no role", allowed=False))
        if kind == SUBJECT_KIND:
            assert answer["status"] == {"allowed": False, "reason": "no role"}
            assert answer["metadata"] == {"creationTimestamp": None}
        else:
            assert answer["status"] == {"allowed": False}
            assert answer["metadata"]["annotations"] == {"leeway.dev/reason": "no role"}


# What kubectl 1.32 sends for `auth can-i get pods/p-0 --subresource=log -n team`, `auth can-i get
# /healthz` and `auth whoami`.
SELF_HEAD = (
    "6b3873000a320a17617574686f72697a6174696f6e2e6b38732e696f2f7631121753656c665375626a656374416363"
    "657373526576696577"
)
CAN_I_LOG = SELF_HEAD + (
    "123f0a100a0012001a0022002a0032003800420012210a1f0a047465616d12036765741a0022002a04706f64733203"
    "6c6f673a03702d301a08080012001a0020001a002200"
)
CAN_I_HEALTHZ = SELF_HEAD + (
    "122f0a100a0012001a0022002a003200380042001211120f0a082f6865616c74687a12036765741a08080012001a00"
    "20001a002200"
)
WHO_AM_I = (
    "6b3873000a2d0a1861757468656e7469636174696f6e2e6b38732e696f2f7631121153656c665375626a6563745265"
    "76696577121a0a100a0012001a0022002a0032003800420012060a040a0012001a002200"
)


@pytest.mark.parametrize(
    ("sent", "request_"),
    [
        (CAN_I_LOG, ResourceAttributes("get", "", "pods", "log", "team", "p-0")),
        (CAN_I_HEALTHZ, NonResourceAttributes("get", "/healthz")),
    ],
)
def test_what_kubectl_sends(sent: str, request_: Attributes) -> None:
    sent_json = json_of(bytes.fromhex(sent), message_of(SELF_KIND))
    assert parse(sent_json, SELF_KIND).request == request_
    with pytest.raises(InvalidReviewError, match=f"serves '{SUBJECT_KIND}'"):
        parse(sent_json)


def field(number: int, value: bytes | str) -> bytes:
    """Return a field of a protocol buffer that is shorter than 128 bytes."""
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


@pytest.mark.fault(1)
@pytest.mark.parametrize("path", ["v1", "v1beta1"])
@pytest.mark.parametrize("sent", [V1, V1BETA1, ""])
def test_a_version_as_a_protocol_buffer(sent: str, path: str) -> None:
    spec = field(1, field(2, "get") + field(5, "pods")) + field(4, "a") + field(4, "b")
    kind = field(1, field(1, sent) + field(2, SUBJECT_KIND))
    sent_json = json_of(b"k8s\0" + kind + field(2, field(2, spec)), message_of(SUBJECT_KIND, path))
    asked = parse_access_review(sent_json, SUBJECT_KIND, path)
    assert asked.groups == ("a", "b")
    assert asked.api_version == (sent or f"authorization.k8s.io/{path}")


def test_a_subject_access_review_as_a_protocol_buffer() -> None:
    resource = field(1, "team") + field(2, "list") + field(3, "apps") + field(4, "v1")
    resource += field(5, "deployments") + field(8, field(1, "a=b"))
    spec = field(1, resource) + field(3, "alice") + field(4, "a") + field(4, "b") + field(6, "u")
    spec += field(5, field(1, "scopes") + field(2, field(1, "view"))) * 2
    kind = field(1, field(1, V1) + field(2, SUBJECT_KIND))
    sent = b"k8s\0" + kind + field(2, field(2, spec) + field(3, field(1, b"")))
    asked = parse(json_of(sent, message_of(SUBJECT_KIND)))
    assert asked.request == ResourceAttributes("list", "apps", "deployments", namespace="team")
    assert (asked.user, asked.groups) == ("alice", ("a", "b"))
    sent = b"k8s\0" + kind + field(2, field(2, spec + field(3, "root")))
    with pytest.raises(InvalidReviewError):
        json_of(sent, message_of(SUBJECT_KIND))


@pytest.mark.fault(12)
def test_the_field_of_conditional_authorization_is_ignored() -> None:
    """kube-apiserver 1.37 adds a field to the spec."""
    spec = field(1, field(2, "get") + field(5, "pods")) + field(3, "alice")
    kind = field(1, field(1, V1) + field(2, SUBJECT_KIND))
    sent = b"k8s\0" + kind + field(2, field(2, spec + field(7, field(1, "HumanReadable"))))
    assert parse(json_of(sent, message_of(SUBJECT_KIND))).user == "alice"


WHO_V1 = {"kind": WHO_AM_I_KIND, "apiVersion": "authentication.k8s.io/v1"}


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        as_json(WHO_V1),
        as_json(WHO_V1 | {"metadata": {"creationTimestamp": None}, "status": {"userInfo": {}}}),
        as_json(WHO_V1 | {"status": {"userInfo": {"username": "root"}}}),
        json_of(bytes.fromhex(WHO_AM_I), message_of(WHO_AM_I_KIND)),
    ],
    ids=["nothing", "kind", "go", "status", "kubectl"],
)
def test_who_am_i(value: bytes) -> None:
    parse_who_am_i(value)


@pytest.mark.bad_input(27, 28, 29, 30, 31)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (as_json(WHO_V1 | {"kind": "TokenReview"}), f"serves '{WHO_AM_I_KIND}'"),
        (as_json(WHO_V1 | {"apiVersion": "authentication.k8s.io/v1beta1"}), "serves 'auth"),
        (as_json(WHO_V1 | {"metadata": 1}), "metadata must be an object"),
        (b'{"kind":"","kind":""}', "appears twice"),
    ],
)
def test_bodies_that_are_not_a_self_subject_review(value: bytes, why: str) -> None:
    with pytest.raises(InvalidReviewError, match=why):
        parse_who_am_i(value)


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        (UserInfo("root", "", ("system:authenticated",), {}),
         {"username": "root", "groups": ["system:authenticated"]}),
        (UserInfo("a", "u", ("g",), {"scopes": ("x", "y")}),
         {"username": "a", "uid": "u", "groups": ["g"], "extra": {"scopes": ["x", "y"]}}),
        (UserInfo(), {}),
    ],
)  # fmt: skip
def test_answer_to_who_am_i(user: UserInfo, shown: dict[str, object]) -> None:
    assert json.loads(render_who_am_i(user)) == WHO_V1 | {
        "metadata": {"creationTimestamp": None},
        "status": {"userInfo": shown},
    }
