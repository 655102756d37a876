import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from webhook.server.request.http import (
    DisconnectedError,
    RequestError,
    Scope,
    header,
    read_json_body,
    respond_error,
)

LIMIT = 10


def read(
    messages: Sequence[Mapping[str, Any]], headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[bytes, int]:
    """Read a body; return it and how many messages it took."""
    waiting = list(messages)

    async def receive() -> Mapping[str, Any]:
        return waiting.pop(0)

    scope: Scope = {"type": "http", "headers": list(headers)}
    body = asyncio.run(read_json_body(scope, receive, LIMIT))
    return body, len(messages) - len(waiting)


def parts(*bodies: bytes) -> list[Mapping[str, Any]]:
    """Return the messages of a whole body."""
    last = len(bodies) - 1
    return [
        {"type": "http.request", "body": body, "more_body": number < last}
        for number, body in enumerate(bodies)
    ]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (parts(b"{}"), b"{}"),
        (parts(b""), b""),
        (parts(b"0123456789"), b"0123456789"),
        (parts(b"01234", b"56789"), b"0123456789"),
        (parts(b"{", b"", b"}", b""), b"{}"),
        ([{"type": "http.request"}], b""),
    ],
)
def test_a_body_within_the_limit(messages: list[Mapping[str, Any]], expected: bytes) -> None:
    assert read(messages) == (expected, len(messages))


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([], [(b"content-length", b"11")]),
        ([], [(b"content-length", b"9" * 4000)]),
        (parts(b"0123456789a"), []),
        (parts(b"01234", b"56789", b"a"), []),
        ([{"type": "http.request", "body": b"0123456789a", "more_body": True}], []),
    ],
    ids=["length", "long length", "one part", "three parts", "no end"],
)
def test_a_body_over_the_limit(
    messages: list[Mapping[str, Any]], headers: list[tuple[bytes, bytes]]
) -> None:
    # With no message left, reading one more than needed fails with another error.
    with pytest.raises(RequestError, match="at most 10 bytes") as caught:
        read(messages, headers)
    assert caught.value.code == 413


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.disconnect"}],
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}],
    ],
)
def test_a_client_that_leaves(messages: list[Mapping[str, Any]]) -> None:
    with pytest.raises(DisconnectedError):
        read(messages)


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
    headers = [] if content_type is None else [(b"content-type", content_type)]
    if served:
        assert read(parts(b"{}"), headers)[0] == b"{}"
        return
    with pytest.raises(RequestError, match="send application/json") as caught:
        read([], headers)
    assert caught.value.code == 415


@pytest.mark.parametrize(
    ("encoding", "served"),
    [(b"identity", True), (b"gzip", False), (b"", False), (b"deflate, gzip", False)],
)
def test_content_encodings(encoding: bytes, served: bool) -> None:
    headers = [(b"content-encoding", encoding)]
    if served:
        assert read(parts(b"{}"), headers)[0] == b"{}"
        return
    with pytest.raises(RequestError, match="Content-Encoding") as caught:
        read([], headers)
    assert caught.value.code == 415


def test_a_header_is_found_by_its_name() -> None:
    scope: Scope = {"headers": [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]}
    assert [header(scope, name) for name in (b"a", b"b", b"c")] == [b"1", b"2", None]


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
    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    error = RequestError(405, "use POST", [(b"allow", b"POST")])
    asyncio.run(respond_error(send, error, {"method": "GET", "path": path}))
    start, body = sent
    assert start["status"] == 405
    headers = dict(start["headers"])
    assert headers[b"allow"] == b"POST"
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert json.loads(body["body"]) == expected
