"""A request's body and identifier, and what an error becomes."""

import json

import pytest

from webhook.kube.token_review import MESSAGE
from webhook.server.request.errors import error_response
from webhook.server.request.message import (
    Fields,
    Headers,
    Request,
    RequestError,
    json_body,
    require_type,
)

LIMIT = 10
GOOD_ID = "a" * 64


def post(body: bytes = b"", headers: Fields = (), length: int = 0) -> Request:
    length = length or len(body)
    return Request("POST", "/", b"", Headers(headers), body, length, max_length=LIMIT)


@pytest.mark.parametrize("body", [b"", b"{}", b"0123456789"])
def test_a_body_within_the_limit(body: bytes) -> None:
    assert json_body(post(body)) == body


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(post(length=11), id="declared"),
        pytest.param(post(length=10**4000), id="a length of many digits"),
        pytest.param(post(b"0123456789a"), id="arrived"),
    ],
)
def test_a_body_over_the_limit(request_: Request) -> None:
    with pytest.raises(RequestError, match="at most 10 bytes") as caught:
        json_body(request_)
    assert caught.value.code == 413


@pytest.mark.parametrize(
    ("content_type", "served"),
    [
        (None, True),
        (b"application/json", True),
        (b"APPLICATION/JSON", True),
        (b"application/json;charset=utf-8", True),
        (b"application/json; charset=UTF-8", True),
        (b'application/json; charset="utf-8"', True),
        (b"application/json ; charset=utf-8", True),
        (b"application/json;", True),
        (b"", False),
        (b"application/json; charset=latin-1", False),
        (b"application/json; charset=utf-16", False),
        (b"application/jsonp", False),
        (b"application/json, text/plain", False),
        (b"application/yaml", False),
        (b"application/vnd.kubernetes.protobuf", False),
        (b"application/x-www-form-urlencoded", False),
        (b"text/json", False),
        (b"\xff\xfe", False),
    ],
)
def test_content_types(content_type: bytes | None, served: bool) -> None:
    headers = () if content_type is None else ((b"content-type", content_type),)
    if served:
        assert json_body(post(b"{}", headers)) == b"{}"
        return
    with pytest.raises(RequestError, match="send application/json") as caught:
        json_body(post(b"{}", headers))
    assert caught.value.code == 415


@pytest.mark.parametrize(
    ("encoding", "served"),
    [(b"identity", True), (b"gzip", False), (b"", False), (b"deflate, gzip", False)],
)
def test_content_encodings(encoding: bytes, served: bool) -> None:
    headers = ((b"content-encoding", encoding),)
    if served:
        assert json_body(post(b"{}", headers)) == b"{}"
        return
    with pytest.raises(RequestError, match="Content-Encoding") as caught:
        json_body(post(b"{}", headers))
    assert caught.value.code == 415


def test_a_type_may_have_to_be_declared() -> None:
    require_type(post(headers=((b"content-type", b"application/json"),)), may_be_missing=False)
    with pytest.raises(RequestError, match="there is no Content-Type") as caught:
        require_type(post(), may_be_missing=False)
    assert caught.value.code == 415


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/vnd.kubernetes.protobuf",
        b"Application/vnd.kubernetes.protobuf ; a=b",
        b"application/json",
    ],
)
def test_a_protocol_buffer_is_told_by_its_type(content_type: bytes) -> None:
    request = post(headers=((b"content-type", content_type),))
    assert require_type(request, MESSAGE) is (content_type != b"application/json")


def test_a_header_is_found_by_its_name() -> None:
    request = post(headers=((b"a", b"1"), (b"b", b"2"), (b"a", b"3")))
    assert [request.header(name) for name in (b"a", b"b", b"c")] == [b"1", b"2", None]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "/apis/x",
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": "use POST",
                "reason": "MethodNotAllowed",
                "code": 405,
            },
        ),
        ("/v3/auth/status", {"code": 12, "message": "use POST"}),
    ],
    ids=["Kubernetes", "etcd"],
)
def test_an_error_has_the_form_of_its_routes(path: str, expected: object) -> None:
    error = RequestError(405, "use POST", ((b"allow", b"POST"),))
    request = Request("GET", path, headers=Headers([(b"x-request-id", b"7")]))
    response = error_response(request, error)
    assert (response.code, response.content_type) == (405, b"application/json")
    assert response.headers == ((b"allow", b"POST"), (b"x-request-id", b"7"))
    assert json.loads(response.body) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-request-id": "abc"}, "abc"),
        ({"x-request-id": "A.b_c-9"}, "A.b_c-9"),
        ({"x-request-id": GOOD_ID}, GOOD_ID),
        (
            {"audit-id": "9c5d0c4e-9d1a-4d0f-8b7e-0d6c0e6b8f11"},
            "9c5d0c4e-9d1a-4d0f-8b7e-0d6c0e6b8f11",
        ),
        ({"x-request-id": "one", "audit-id": "two"}, "one"),
        ({"audit-id": "two", "x-request-id": "one"}, "one"),
        ({"x-request-id": "not good", "audit-id": "two"}, "two"),
    ],
)
def test_a_good_id_is_kept(headers: dict[str, str], expected: str) -> None:
    assert with_headers(headers).id == expected


@pytest.mark.parametrize(
    "value",
    ["", GOOD_ID + "a", "a b", "a\n", "a\nb", "a\r\nSet-Cookie: x", "a/b", "é", '"', "\x00", "a;b"],
)
def test_another_id_is_not(value: str) -> None:
    request = with_headers({"x-request-id": value, "audit-id": value})
    made = request.id
    assert len(made) == 16
    assert int(made, 16) >= 0
    assert request.id == made
    assert with_headers({}).id != made


def with_headers(headers: dict[str, str]) -> Request:
    fields = ((name.encode(), value.encode("latin-1")) for name, value in headers.items())
    return Request("POST", "/v3/auth/authenticate", headers=Headers(fields))
