"""RangeAccessReview: requests and answers; bad input 27 to 31 and 43."""

import base64
import json

import pytest

from tests.support import as_json, assert_token_not_in, good_claims, token_of
from webhook.errors import InvalidReviewError, LeewayError
from webhook.kube.range_review import RangeReviewRequest, parse_range_review, render_range_review
from webhook.rbac.access import AccessDecision
from webhook.rbac.model import PermissionType
from webhook.rbac.ranges import Range

READ, WRITE, _ = PermissionType
V1 = "leeway.dev/v1"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def body(**spec: object) -> dict[str, object]:
    members = {"user": "alice", "permission": "READ", "key": b64(b"/a")} | spec
    members = {name: value for name, value in members.items() if value is not ...}
    return {"kind": "RangeAccessReview", "apiVersion": V1, "spec": members}


def parse(value: object) -> RangeReviewRequest:
    return parse_range_review(value if isinstance(value, bytes) else as_json(value))


@pytest.mark.parametrize(
    ("spec", "subject", "kind", "span"),
    [
        pytest.param({}, ("alice", ()), READ, Range(b"/a", b"/a\0"), id="key"),
        pytest.param(
            {"rangeEnd": b64(b"/b"), "permission": "WRITE", "groups": ["a", "b"]},
            ("alice", ("a", "b")),
            WRITE,
            Range(b"/a", b"/b"),
            id="range",
        ),
        pytest.param(
            {"rangeEnd": b64(b"\0")}, ("alice", ()), READ, Range(b"/a", None), id="open-ended"
        ),
        pytest.param(
            {"key": b64(b"\0\xff"), "rangeEnd": ""},
            ("alice", ()),
            READ,
            Range(b"\0\xff", b"\0\xff\0"),
            id="bytes",
        ),
        pytest.param(
            {"user": ..., "token": "t", "groups": []},
            ("", ()),
            READ,
            Range(b"/a", b"/a\0"),
            id="token",
        ),
    ],
)
def test_read(
    spec: dict[str, object],
    subject: tuple[str, tuple[str, ...]],
    kind: PermissionType,
    span: Range,
) -> None:
    asked = parse(body(**spec))
    assert (asked.subject, asked.kind, asked.span) == (subject, kind, span)
    assert asked.token == spec.get("token", "")


WRONG: dict[str, tuple[object, str]] = {
    "27-no-spec": ({"kind": "RangeAccessReview", "apiVersion": V1}, "spec"),
    "27-nobody": (body(user=...), "either a user or a token"),
    "27-empty-user": (body(user=""), "either a user or a token"),
    "27-empty-token": (body(user=..., token=""), "either a user or a token"),
    "27-both": (body(token="t"), "either a user or a token"),
    "27-token-number": (body(user=..., token=1), "token must be a string"),
    "27-token-null": (body(user=..., token=None), "token must be a string"),
    "27-token-and-groups": (body(user=..., token="t", groups=["g"]), "goes with a user"),
    "27-groups-text": (body(groups="a"), "groups must be a list, not a string"),
    "27-key-text": (body(key="not base64!"), "not a RangeAccessReview"),
    "28-permission-twice": (
        b'{"spec":{"user":"a","permission":"READ","permission":"WRITE","key":"YQ=="}}',
        "appears twice",
    ),
    "28-Spec": (body() | {"Spec": {}}, "unknown field Spec; it is written spec"),
    "28-Kind": (body() | {"Kind": "x"}, "unknown field Kind; it is written kind"),
    "28-Token": (body(Token="t"), "unknown field spec.Token"),
    "28-range_end": (body(range_end=""), "unknown field spec.range_end"),
    "29-kind": (body() | {"kind": "TokenReview"}, "serves 'RangeAccessReview'"),
    "29-version": (body() | {"apiVersion": "leeway.dev/v2"}, f"serves '{V1}'"),
    "31-empty": (b"", "not JSON"),
    "31-list": ([], "not a JSON object"),
    "31-utf-16": (json.dumps(body()).encode("utf-16"), "not JSON"),
    "both-types": (body(permission="READWRITE"), "READ or WRITE is allowed"),
    "lower-case": (body(permission="read"), "READ or WRITE is allowed"),
    "43-no-key": (body(key=...), "key"),
    "43-empty-key": (body(key=""), "spec.key is empty"),
    "43-empty-range": (body(rangeEnd=b64(b"/a")), "spec.rangeEnd is not after it"),
    "43-inverted-range": (body(rangeEnd=b64(b"/Z")), "spec.rangeEnd is not after it"),
    "43-1-MB-key": (body(key=b64(b"k" * 1_000_000)), "key"),
}


@pytest.mark.bad_input(27, 28, 29, 30, 31, 43)
@pytest.mark.parametrize(("value", "why"), WRONG.values(), ids=WRONG)
def test_bodies_that_are_not_a_review(value: object, why: str) -> None:
    with pytest.raises(LeewayError, match=why) as caught:
        parse(value)
    assert len(str(caught.value)) < 300


def test_no_error_shows_a_token() -> None:
    token = token_of(good_claims())
    for wrong in (
        body(token=token),
        body(user=..., token=token, groups=["g"]),
        body(user=..., token=[token]),
        body(user=..., token=token, permission="x"),
        body(user=..., token=token, key=""),
    ):
        with pytest.raises(InvalidReviewError) as caught:
            parse(wrong)
        assert_token_not_in(token, str(caught.value))


def render(access: AccessDecision, refusal: str = "", **spec: object) -> dict[str, object]:
    rendered = render_range_review(parse(body(**spec)), access, 7, refusal, store_revision="s-9")
    answer = json.loads(rendered)
    assert isinstance(answer, dict)
    return answer


def test_answer_yes() -> None:
    assert render(AccessDecision(True, ("a", "b"), ()), groups=["g"]) == {
        "kind": "RangeAccessReview",
        "apiVersion": V1,
        "metadata": {"creationTimestamp": None},
        "spec": {
            "user": "alice",
            "groups": ["g"],
            "permission": "READ",
            "key": b64(b"/a"),
            "rangeEnd": "",
        },
        "status": {
            "allowed": True,
            "reason": "granted by role a and b",
            "roles": ["a", "b"],
            "uncovered": [],
            "revision": 7,
            "storeRevision": "s-9",
        },
    }


def test_a_denial_names_what_is_missing() -> None:
    gaps = (Range(b"/b", b"/b\0"), Range(b"/c", b"/d"), Range(b"/e", None))
    assert render(AccessDecision(False, ("a",), gaps))["status"] == {
        "allowed": False,
        "reason": "no role grants READ on all of the range",
        "roles": ["a"],
        "uncovered": [
            {"key": b64(b"/b"), "rangeEnd": ""},
            {"key": b64(b"/c"), "rangeEnd": b64(b"/d")},
            {"key": b64(b"/e"), "rangeEnd": b64(b"\0")},
        ],
        "revision": 7,
        "storeRevision": "s-9",
    }


@pytest.mark.parametrize(
    ("sent", "position"), [({}, ""), ({"minRevision": ""}, ""), ({"minRevision": "s-8"}, "s-8")]
)
def test_a_position_is_opaque_and_is_sent_back(sent: dict[str, str], position: str) -> None:
    assert parse(body(**sent)).min_revision == position
    spec = render(AccessDecision(True, ("a",), ()), **sent)["spec"]
    assert isinstance(spec, dict)
    assert {name: spec[name] for name in spec if name == "minRevision"} == sent


def test_the_token_is_not_returned() -> None:
    token = token_of(good_claims())
    whole = Range(b"/a", b"/a\0")
    accepted = render(AccessDecision(True, ("a",), ()), user=..., token=token)
    refused = render(AccessDecision(False, (), (whole,)), "it has expired", user=..., token=token)
    for answer in (accepted, refused):
        assert_token_not_in(token, json.dumps(answer))
        assert answer["spec"] == {
            "groups": [],
            "token": "",
            "permission": "READ",
            "key": b64(b"/a"),
            "rangeEnd": "",
        }
    assert refused["status"] == {
        "allowed": False,
        "reason": "the token is refused: it has expired",
        "roles": [],
        "uncovered": [{"key": b64(b"/a"), "rangeEnd": ""}],
        "revision": 7,
        "storeRevision": "s-9",
    }
    assert_token_not_in(token, repr(parse(body(user=..., token=token))))
