"""TokenReview: bytes in, bytes out; bad input 27 to 30 and 32."""

import json
from collections.abc import Callable
from time import perf_counter

import pytest

from tests.support import (
    AUDIENCE,
    NOW,
    JSONObject,
    as_json,
    assert_accepted,
    assert_token_not_in,
    authenticator_with,
    good_claims,
    read_object,
    token_of,
)
from webhook.errors import InvalidReviewError
from webhook.kube.token_review import TokenReviewRequest, parse_token_review, render_token_review

V1 = "authentication.k8s.io/v1"
V1BETA1 = "authentication.k8s.io/v1beta1"
NO_TOKEN = "token is required for TokenReview in authentication"


def body(spec: object = None, **changes: object) -> JSONObject:
    spec = {"token": "a.b.c"} if spec is None else spec
    return {"kind": "TokenReview", "apiVersion": V1, "spec": spec} | changes


def refuse(content: bytes | JSONObject, version: str = "v1") -> str:
    data = content if isinstance(content, bytes) else as_json(content)
    with pytest.raises(InvalidReviewError) as raised:
        parse_token_review(data, version)
    text = str(raised.value)
    assert text
    assert text.isprintable()
    assert len(text) < 500
    return text


@pytest.mark.bad_input(27)
@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        pytest.param(body({"token": ""}), NO_TOKEN, id="empty"),
        pytest.param(body({"token": " \t\r\n\v\f"}), NO_TOKEN, id="white-space"),
        pytest.param(body({}), NO_TOKEN, id="missing"),
        pytest.param(body({"audiences": ["a"]}), NO_TOKEN, id="only-audiences"),
        pytest.param(body({"token": None}), "spec.token must be a string", id="null"),
        pytest.param(body({"token": 1}), "spec.token must be a string", id="number"),
        pytest.param(body({"token": True}), "spec.token must be a string", id="true"),
        pytest.param(body({"token": ["a"]}), "spec.token must be a string", id="list"),
        pytest.param(body({"token": {}}), "spec.token must be a string", id="object"),
        pytest.param({"kind": "TokenReview", "apiVersion": V1}, "spec", id="spec-missing"),
        pytest.param(body([]), "spec must be an object", id="spec-list"),
        pytest.param(body("a.b.c"), "spec must be an object", id="spec-text"),
        pytest.param(body(spec=0), "spec must be an object", id="spec-number"),
        pytest.param({"token": "a.b.c"}, "spec", id="token-beside-spec"),
        pytest.param(
            body({"token": "a", "audiences": "a"}), "list of strings", id="audiences-text"
        ),
        pytest.param(
            body({"token": "a", "audiences": ""}), "list of strings", id="audiences-empty-text"
        ),
        pytest.param(
            body({"token": "a", "audiences": False}), "list of strings", id="audiences-false"
        ),
        pytest.param(
            body({"token": "a", "audiences": {}}), "list of strings", id="audiences-empty-object"
        ),
        pytest.param(
            body({"token": "a", "audiences": [1]}), "list of strings", id="audiences-number"
        ),
        pytest.param(
            body({"token": "a", "audiences": [["a"]]}), "list of strings", id="audiences-nested"
        ),
        pytest.param(
            body({"token": "a", "audiences": {"a": 1}}), "list of strings", id="audiences-object"
        ),
        pytest.param(body(metadata=[]), "metadata", id="metadata-list"),
        pytest.param(body(metadata="x"), "metadata", id="metadata-text"),
    ],
)
def test_token_or_spec(content: JSONObject, phrase: str) -> None:
    assert phrase in refuse(content)


@pytest.mark.bad_input(28)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"token":"a","token":"b"}', id="token"),
        pytest.param('{"token":"a","token":"a"}', id="token-the-same"),
        pytest.param('{"token":"a","\\u0074oken":"b"}', id="token-escaped"),
        pytest.param('{"token":"a","audiences":["a"],"audiences":[]}', id="audiences"),
        pytest.param('{"token":"a","x":[{"y":1,"y":2}]}', id="unknown-and-deep"),
    ],
)
@pytest.mark.parametrize("spaced", [False, True], ids=["compact", "spaced"])
def test_member_of_spec_twice(text: str, spaced: bool) -> None:
    content = f'{{"kind":"TokenReview","apiVersion":"{V1}","spec":{text}}}'
    content = content.replace(",", ", ") if spaced else content
    assert "appears twice" in refuse(content.encode())


@pytest.mark.bad_input(28)
@pytest.mark.parametrize("member", ["kind", "apiVersion", "spec", "metadata", "status", "other"])
def test_member_of_review_twice(member: str) -> None:
    good = as_json(body(metadata={}, status={}, other=1)).decode()
    value = json.dumps(json.loads(good)[member], separators=(",", ":"))
    content = f'{good[:-1]},"{member}":{value}}}'
    assert "appears twice" in refuse(content.encode())


@pytest.mark.bad_input(28)
@pytest.mark.parametrize(
    ("content", "field"),
    [
        (body({"Token": "a"}), "spec.Token"),
        (body({"TOKEN": "a"}), "spec.TOKEN"),
        (body({"token": "a", "Token": "b"}), "spec.Token"),
        (body({"token": "a", "Audiences": []}), "spec.Audiences"),
        (body() | {"Spec": {"token": "b"}}, "Spec"),
        ({"Spec": {"token": "b"}}, "Spec"),
        ({"Kind": "TokenReview", "spec": {"token": "a"}}, "Kind"),
        (body() | {"apiversion": V1}, "apiversion"),
        (body() | {"APIVersion": V1}, "APIVersion"),
        (body() | {"Status": {}}, "Status"),
        (body() | {"Metadata": {}}, "Metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_member_in_another_case(content: JSONObject, field: str) -> None:
    assert field in refuse(content)


@pytest.mark.bad_input(29)
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        pytest.param({"kind": "SubjectAccessReview"}, "'SubjectAccessReview'", id="kind"),
        pytest.param({"kind": "tokenreview"}, "'tokenreview'", id="kind-in-lower-case"),
        pytest.param({"kind": 1}, "not a string", id="kind-number"),
        pytest.param({"kind": []}, "not a string", id="kind-list"),
        pytest.param({"apiVersion": "v1"}, "'v1'", id="version-without-group"),
        pytest.param(
            {"apiVersion": "authentication.k8s.io/v2"}, "'authentication.k8s.io/v2'", id="v2"
        ),
        pytest.param(
            {"apiVersion": "authorization.k8s.io/v1"}, "'authorization.k8s.io/v1'", id="group"
        ),
        pytest.param({"apiVersion": False}, "not a string", id="version-false"),
        pytest.param({"apiVersion": "x" * 10_000}, "'" + "x" * 64 + "'", id="long"),
        pytest.param({"apiVersion": "a\nb"}, r"'a\nb'", id="newline"),
    ],
)
def test_kind_or_version(changes: JSONObject, found: str, version: str) -> None:
    served = f"authentication.k8s.io/{version}"
    text = refuse(body(apiVersion=served) | changes, version)
    assert found in text
    assert ("'TokenReview'" if "kind" in changes else f"'{served}'") in text


@pytest.mark.bad_input(29)
@pytest.mark.fault(1)
@pytest.mark.parametrize("path", ["v1", "v1beta1"])
@pytest.mark.parametrize("sent", [V1, V1BETA1])
@pytest.mark.parametrize("plain", [True, False], ids=["as-kube-apiserver", "spaced"])
def test_the_version_of_the_body_decides(sent: str, path: str, plain: bool) -> None:
    content = body({"token": token_of(good_claims())}, apiVersion=sent)
    data = as_json(content) if plain else json.dumps(content, indent=1).encode()
    answer = _answer(data, path)
    assert answer["apiVersion"] == sent
    assert answer["status"]["authenticated"] is True


@pytest.mark.bad_input(29)
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "left-out"])
def test_each_version_is_answered_as_itself(version: str, named: bool) -> None:
    api_version = f"authentication.k8s.io/{version}"
    content: JSONObject = {"spec": {"token": token_of(good_claims())}}
    if named:
        content |= {"kind": "TokenReview", "apiVersion": api_version}
    answer = _answer(as_json(content), version)
    assert answer["apiVersion"] == api_version
    assert answer["kind"] == "TokenReview"
    assert answer["status"]["authenticated"] is True


def _answer(data: bytes, version: str = "v1") -> JSONObject:
    request = parse_token_review(data, version)
    outcome = authenticator_with().authenticate(request.token, request.audiences, NOW)
    text = render_token_review(request, outcome)
    assert_token_not_in(request.token, text.decode())
    return read_object(text)


@pytest.mark.bad_input(30)
@pytest.mark.parametrize("valid", [True, False], ids=["good-token", "bad-token"])
@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"authenticated": True, "user": {"username": "root"}}, id="authenticated"),
        pytest.param({"authenticated": False, "error": "no"}, id="refused"),
        pytest.param({"audiences": ["a"], "user": {"groups": ["system:masters"]}}, id="groups"),
        pytest.param([], id="list"),
        pytest.param("yes", id="text"),
        pytest.param(None, id="null"),
    ],
)
def test_status_of_the_client(status: object, valid: bool) -> None:
    token = token_of(good_claims() if valid else good_claims(exp=1))
    plain = _answer(as_json(body({"token": token})))
    answer = _answer(as_json(body({"token": token}, status=status)))
    assert answer == plain
    assert answer["status"]["authenticated"] is valid
    assert "root" not in json.dumps(answer)
    assert "masters" not in json.dumps(answer)


def _best_of(times: int, function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(times):
        started = perf_counter()
        function()
        seconds.append(perf_counter() - started)
    return min(seconds)


MANY: dict[str, JSONObject] = {
    "10000-audiences": {"audiences": [f"audience-{number}" for number in range(10_000)]},
    "10000-audiences-and-ours": {
        "audiences": [*(f"audience-{number}" for number in range(9_999)), AUDIENCE]
    },
    "100-audiences-of-the-token": {"audiences": ["x"] * 10_000},
    "3-MB-token": {"token": "a" * 3_000_000},
    "3-MB-token-of-dots": {"token": "." * 3_000_000},
    "3-MB-token-like-ours": {"token": "eyJh." * 600_000},
}


@pytest.mark.bad_input(32)
@pytest.mark.parametrize("name", MANY)
def test_large_review_within_100_ms(name: str) -> None:
    audiences = [AUDIENCE, *(f"b-{number}" for number in range(99))]
    claims = good_claims(aud=audiences) if name.startswith("100-") else good_claims()
    spec = {"token": token_of(claims)} | MANY[name]
    data = as_json(body(spec))
    answer = _answer(data)
    assert answer["status"]["authenticated"] is (name == "10000-audiences-and-ours")
    assert answer["spec"].get("audiences", []) == spec.get("audiences", [])
    assert len(answer["status"].get("error", "")) < 1000
    assert _best_of(5, lambda: _answer(data)) < 0.1


CROWDED = {
    "objects": b'{ "metadata":[' + b"{}," * 1_000_000 + b"1]}",
    "objects-alike-to-the-server": b'{"metadata":[' + b"{}," * 1_000_000 + b"1]}",
    "arrays": b'{ "metadata":[' + b"[]," * 1_000_000 + b"1]}",
    "numbers": b'{ "metadata":[' + b"1," * 1_500_000 + b"1]}",
    "members": b"{ " + b",".join(b'"%d":1' % number for number in range(300_000)) + b"}",
    "audiences": as_json(body({"token": "x", "audiences": ["a"] * 700_000})),
}


@pytest.mark.bad_input(32)
@pytest.mark.parametrize("data", CROWDED.values(), ids=CROWDED)
def test_crowded_body_within_100_ms(data: bytes) -> None:
    def parse() -> None:
        with pytest.raises(InvalidReviewError, match="more than 30,000 values"):
            parse_token_review(data, "v1")

    assert _best_of(5, parse) < 0.1


def test_audiences_of_a_huge_review_are_compared_in_linear_time() -> None:
    """700,000 requested audiences, 100 in the token: half a second if compared one by one."""
    audiences = [AUDIENCE, *(f"b-{number}" for number in range(99))]
    authenticator = authenticator_with()
    token = token_of(good_claims(aud=audiences))
    asked = ["a"] * 700_000
    assert _best_of(5, lambda: authenticator.authenticate(token, asked, NOW)) < 0.1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"1", id="number"),
        pytest.param(as_json(body()) + b"x", id="text-after"),
        pytest.param(as_json(body()).decode().encode("utf-16"), id="utf-16"),
        pytest.param(b"\xef\xbb\xbf" + as_json(body()), id="BOM"),
        pytest.param(b'{"spec":{"token":"\xff"}}', id="not-utf-8"),
        pytest.param(rb'{"spec":{"token":"\ud800"}}', id="lone-surrogate"),
        pytest.param(b'{"spec":{"token":"a"},"x":' + b"[" * 100_000, id="100000-deep-and-open"),
        pytest.param(
            b'{"spec":{"token":"a"},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            id="100000-deep",
        ),
        pytest.param(
            b'{ "spec":{"token":"a"},"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
            id="100000-objects-deep-and-spaced",
        ),
        pytest.param(b'{"spec":{"token":NaN}}', id="NaN"),
    ],
)
def test_body_that_is_not_json(data: bytes) -> None:
    assert "TokenReview" in refuse(data)


@pytest.mark.parametrize(
    ("sent", "token"),
    [
        ("a.b.c", "a.b.c"),
        (" a.b.c", "a.b.c"),
        ("a.b.c\n", "a.b.c"),
        ("\t\r\n\v\fa.b.c \t", "a.b.c"),
        ("a. b.c", "a. b.c"),
        ("\xa0a.b.c\u2003", "\xa0a.b.c\u2003"),
        ("\0a", "\0a"),
        ("\x1ca", "\x1ca"),
    ],
    ids=ascii,
)
def test_only_ascii_white_space_is_stripped(sent: str, token: str) -> None:
    assert parse_token_review(as_json(body({"token": sent})), "v1").token == token


@pytest.mark.parametrize(
    ("audiences", "expected"), [(None, ()), ([], ()), (["a"], ("a",)), (["b", "a"], ("b", "a"))]
)
def test_requested_audiences(audiences: object, expected: tuple[str, ...]) -> None:
    request = parse_token_review(as_json(body({"token": "a", "audiences": audiences})), "v1")
    assert request == TokenReviewRequest(V1, "a", expected)


@pytest.mark.parametrize(
    ("asked", "in_token", "answered"),
    [
        ([], [AUDIENCE], [AUDIENCE]),
        ([], ["vault", AUDIENCE], [AUDIENCE]),
        (["vault"], [AUDIENCE, "vault"], ["vault"]),
        (["vault", AUDIENCE], [AUDIENCE, "vault"], [AUDIENCE, "vault"]),
        (["other", "vault"], ["vault"], ["vault"]),
        ([], ["vault"], None),
        (["vault"], [AUDIENCE], None),
    ],
)
def test_answered_audiences(
    asked: list[str], in_token: list[str], answered: list[str] | None
) -> None:
    token = token_of(good_claims(aud=in_token))
    answer = _answer(as_json(body({"token": token, "audiences": asked})))
    assert answer["status"].get("audiences") == answered
    assert answer["status"]["authenticated"] is (answered is not None)
    assert answer["spec"] == {"token": ""} | ({"audiences": asked} if asked else {})


def test_the_token_is_not_in_a_repr() -> None:
    token = token_of(good_claims())
    request = parse_token_review(as_json(body({"token": token})), "v1")
    outcome = assert_accepted(authenticator_with().authenticate(request.token, [], NOW))
    for text in (repr(request), repr(outcome)):
        assert_token_not_in(token, text)


def test_complete_accepted_answer() -> None:
    token = token_of(good_claims())
    assert _answer(as_json(body({"token": token}))) == {
        "kind": "TokenReview",
        "apiVersion": V1,
        "metadata": {"creationTimestamp": None},
        "spec": {"token": ""},
        "status": {
            "authenticated": True,
            "user": {
                "username": "system:serviceaccount:argo-run:loofah",
                "uid": "66bff4eb-5231-4bfa-b116-b20312443c46",
                "groups": [
                    "system:serviceaccounts",
                    "system:serviceaccounts:argo-run",
                    "system:authenticated",
                ],
                "extra": {
                    "authentication.kubernetes.io/credential-id": [
                        "JTI=23c4d832-c540-422a-9e85-304452db3136"
                    ]
                },
            },
            "audiences": [AUDIENCE],
        },
    }


def test_error_stays_short_whatever_the_audiences() -> None:
    for asked, in_token in ((["x" * 1_000_000] * 3, [AUDIENCE]), (["x"], ["y" * 2000] * 5)):
        token = token_of(good_claims(aud=in_token))
        answer = _answer(as_json(body({"token": token, "audiences": asked})))
        assert "is invalid for the target audiences" in answer["status"]["error"]
        assert len(answer["status"]["error"]) < 4000
