"""etcd's auth API over JSON, and RangeAccessReview: identity, errors, and rows 41-43 and 46."""

import json
from collections.abc import Iterator

import pytest

from webhook.server.flask import auth_api

from .auth import (
    API_SERVER,
    BAD_TOKEN,
    DENIED,
    NO_IDENTITY,
    PASSWORD,
    RANGE_REVIEWS,
    ROOT,
    as_root,
    ask,
    auth_server,
    b64,
    call,
    grant,
    log_in,
    question,
    refusal,
)
from .harness import RunningServer

CALLS = sorted(auth_api._CALLS)
NEEDS_IDENTITY = [name for name in CALLS if name != "authenticate"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run a server with alice and bob, each with one role."""
    with auth_server(tmp_path_factory.mktemp("auth"), BCRYPT_COST="4") as running:
        as_root(
            running,
            ("role/add", {"name": "readers"}),
            ("role/add", {"name": "writers"}),
            ("role/grant", grant("readers", "READ", b"/a/", b"/a0")),
            ("role/grant", grant("readers", "READ", b"/single")),
            ("role/grant", grant("readers", "READ", b"/gap/a", b"/gap/b")),
            ("role/grant", grant("readers", "READ", b"/gap/b\0", b"/gap/c")),
            ("role/grant", grant("writers", "WRITE", b"/w/", b"\0")),
            ("user/add", {"name": "alice", "password": PASSWORD}),
            ("user/add", {"name": "bob", "password": PASSWORD}),
            ("user/grant", {"user": "alice", "role": "readers"}),
            ("user/grant", {"user": "bob", "role": "writers"}),
        )
        yield running


def test_the_calls_are_those_of_etcd() -> None:
    users = ("add", "changepw", "delete", "get", "grant", "list", "revoke")
    roles = ("add", "delete", "get", "grant", "list", "revoke")
    expected = ["authenticate", "disable", "enable", "status"]
    expected += [f"role/{name}" for name in roles] + [f"user/{name}" for name in users]
    assert sorted(expected) == CALLS


@pytest.mark.parametrize("name", NEEDS_IDENTITY)
def test_calls_without_identity_are_refused(server: RunningServer, name: str) -> None:
    assert refusal(call(server, name, {})) == NO_IDENTITY
    assert refusal(call(server, name, {}, token="no.such.token")) == BAD_TOKEN


@pytest.mark.parametrize("name", NEEDS_IDENTITY)
def test_calls_without_the_role_root_are_refused(server: RunningServer, name: str) -> None:
    assert refusal(call(server, name, {}, API_SERVER)) == DENIED
    assert refusal(call(server, name, {}, token=log_in(server, "alice", PASSWORD))) == DENIED


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("user", ["", ROOT])
def test_get_is_405(server: RunningServer, name: str, user: str) -> None:
    answer = server.request("GET", f"/v3/auth/{name}", context=server.context(user))
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]


@pytest.mark.fault(56)
@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=UTF-8"])
def test_json_content_types_are_accepted(server: RunningServer, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    body = json.dumps({"name": "alice", "password": PASSWORD}).encode()
    context = server.context("")
    answer = server.request("POST", "/v3/auth/authenticate", body, headers, context)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["header"]["revision"].isdigit()
    assert answer.json["token"]


def test_a_chunked_body(server: RunningServer) -> None:
    body = json.dumps({"name": "alice", "password": PASSWORD}).encode()
    request = (
        b"POST /v3/auth/authenticate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\n\r\n"
    )
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n"
    answer = server.exchange(request + chunks, server.context(""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"token"' in answer


def test_a_body_over_the_limit_is_413(server: RunningServer) -> None:
    answer = server.request("POST", "/v3/auth/user/add", b"x" * 4_000_000)
    assert answer.status == 413


def test_an_unknown_call_is_404_for_all(server: RunningServer) -> None:
    for user in ("", ROOT):
        for path in ("/v3/auth/no/such", "/v3/auth/", "/v3/kv/put", "/v3/auth/user/add/"):
            answer = server.request("POST", path, b"{}", context=server.context(user))
            assert answer.status == (404 if user else answer.status), path
            assert answer.status in (400, 404), path


def test_a_certificate_takes_precedence_over_a_token(server: RunningServer) -> None:
    alice = log_in(server, "alice", PASSWORD)
    assert call(server, "user/list", {}, ROOT, alice).status == 200
    assert call(server, "user/list", {}, ROOT, "no.such.token").status == 200
    assert refusal(call(server, "user/get", {"name": "alice"}, API_SERVER, alice)) == DENIED


def test_a_token_is_accepted_bare_and_as_bearer(server: RunningServer) -> None:
    alice = log_in(server, "alice", PASSWORD)
    for value in (alice, f"Bearer {alice}", f"bearer {alice}"):
        assert call(server, "user/get", {"name": "alice"}, token=value).status == 200


def test_a_bad_token_does_not_prevent_a_log_in(server: RunningServer) -> None:
    body = {"name": "alice", "password": PASSWORD}
    assert call(server, "authenticate", body, token="no.such.token").status == 200


def test_an_auth_token_is_an_identity_everywhere(server: RunningServer) -> None:
    as_root(
        server,
        ("user/add", {"name": "reviewer", "password": PASSWORD}),
        ("role/add", {"name": "reviewers"}),
        ("user/grant", {"user": "reviewer", "role": "reviewers"}),
    )
    headers = {"Authorization": "Bearer " + log_in(server, "reviewer", PASSWORD)}
    nobody = server.context("")
    asked = question("alice", "READ", b"/a/")
    assert server.request("POST", RANGE_REVIEWS, asked, headers, nobody).status == 403
    as_root(server, ("role/grant", grant("reviewers", "WRITE", b"/leeway/subjectaccessreviews")))
    assert server.request("POST", RANGE_REVIEWS, asked, headers, nobody).status == 201
    assert server.request("POST", RANGE_REVIEWS, asked, {}, nobody).status == 401
    headers = {"Authorization": "no.such.token"}
    answer = server.request("POST", RANGE_REVIEWS, asked, headers, nobody)
    assert (answer.status, answer.json["reason"]) == (401, "Unauthorized")


def test_a_password_is_never_logged(server: RunningServer) -> None:
    token = log_in(server, "alice", PASSWORD)
    secret = "a-password-of-its-own"
    assert call(server, "user/add", {"name": "eve", "password": secret}, ROOT).status == 200
    assert call(server, "authenticate", {"name": "eve", "password": secret[::-1]}).status == 400
    log = server.log()
    assert [part for part in (token, secret, secret[::-1]) if part in log] == []


@pytest.mark.bad_input(41)
def test_an_open_ended_query_against_a_single_key_is_denied(
    server: RunningServer,
) -> None:
    status = ask(server, "alice", "READ", b"/single", b"\0").json["status"]
    assert status["allowed"] is False
    assert status["uncovered"] == [{"key": b64(b"/single\0"), "rangeEnd": b64(b"\0")}]
    assert ask(server, "alice", "READ", b"/single").json["status"]["allowed"] is True
    # The end of just that key is the same as the key alone.
    end = b"/single\0"
    assert ask(server, "alice", "READ", b"/single", end).json["status"]["allowed"] is True


@pytest.mark.bad_input(42)
def test_a_gap_of_one_key_is_denied_and_named(server: RunningServer) -> None:
    status = ask(server, "alice", "READ", b"/gap/a", b"/gap/c").json["status"]
    assert status["allowed"] is False
    assert status["uncovered"] == [{"key": b64(b"/gap/b"), "rangeEnd": ""}]
    as_root(server, ("role/grant", grant("readers", "READ", b"/gap/b")))
    status = ask(server, "alice", "READ", b"/gap/a", b"/gap/c").json["status"]
    assert (status["allowed"], status["uncovered"]) == (True, [])
    assert status["roles"] == ["readers"]
    as_root(server, ("role/revoke", {"role": "readers", "key": b64(b"/gap/b")}))


@pytest.mark.bad_input(43)
@pytest.mark.parametrize(
    ("key", "end"),
    [
        (b"", b""), (b"", b"\0"), (b"", b"a"), (b"b", b"a"), (b"b", b"b"), (b"\xff", b"a"),
        (b"k" * 1_000_000, b""), (b"k", b"l" * 1_000_000),
    ],
    ids=["empty", "empty-open", "empty-to-a", "inverted", "same", "ff", "1MB-key", "1MB-end"],
)  # fmt: skip
def test_missing_key_bad_range_or_huge_key(server: RunningServer, key: bytes, end: bytes) -> None:
    answer = call(server, "role/grant", grant("readers", "READ", key, end), ROOT)
    assert refusal(answer)[:2] == (400, 3)
    if len(key + end) < 1000:
        assert answer.json["message"] == "etcdserver: invalid auth management"
    answer = ask(server, "alice", "READ", key, end)
    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert len(answer.body) < 1000


@pytest.mark.bad_input(46)
def test_details_of_other_users_and_roles_are_denied(server: RunningServer) -> None:
    alice = log_in(server, "alice", PASSWORD)
    for name, body in (
        ("user/get", {"name": "bob"}),
        ("user/get", {"name": ROOT}),
        ("user/get", {"name": "nobody"}),
        ("user/get", {}),
        ("role/get", {"role": "writers"}),
        ("role/get", {"role": ROOT}),
        ("role/get", {"role": "nothing"}),
        ("user/list", {}),
        ("role/list", {}),
    ):
        assert refusal(call(server, name, body, token=alice)) == DENIED
    assert call(server, "user/get", {"name": "alice"}, token=alice).json["roles"] == ["readers"]
    assert len(call(server, "role/get", {"role": "readers"}, token=alice).json["perm"]) == 4
