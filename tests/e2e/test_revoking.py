"""``leeway revoke`` beside a running server of two workers: contract section 6."""

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import jti_of, unb64

from .auth import (
    PASSWORD,
    RANGE_REVIEWS,
    as_root,
    auth_server,
    b64,
    call_on,
    connections_to_every_worker,
    grant,
    log_in,
    refusal,
)
from .harness import LEEWAY, REVIEWS, RunningServer, request_on, review_of, serve, start_server

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
LEEWAY_SECONDS = 60.0
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run a server in which service accounts of one namespace may review tokens."""
    with auth_server(tmp_path_factory.mktemp("revoking"), BCRYPT_COST="4") as running:
        as_root(
            running,
            ("role/add", {"name": "reviewers"}),
            ("role/grant", grant("reviewers", "WRITE", b"/leeway/tokenreviews")),
            ("role/grant", grant("reviewers", "WRITE", b"/leeway/subjectaccessreviews")),
            ("role/grant", grant("reviewers", "READ", b"/a/", b"/a0")),
        )
        for name in ("caller", "range-caller"):
            user = f"system:serviceaccount:demo:{name}"
            as_root(
                running,
                ("user/add", {"name": user, "options": {"no_password": True}}),
                ("user/grant", {"user": user, "role": "reviewers"}),
            )
        yield running


def revoke(server: RunningServer, *arguments: str) -> str:
    command = [LEEWAY, "revoke", *arguments, "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def reviewed_by_every_worker(server: RunningServer, token: str, caller: str) -> set[str]:
    """Review a token on connections to both workers; return the annotated reasons."""
    headers = {"Authorization": f"Bearer {caller}", "Content-Type": "application/json"}
    body = json.dumps(review_of(token)).encode()
    found = set()
    with connections_to_every_worker(server) as connections:
        for connection in connections:
            answer = request_on(connection, "POST", REVIEWS, body, headers)
            assert answer.status == 201, answer
            annotations = answer.json["metadata"].get("annotations", {})
            assert answer.json["status"]["authenticated"] is (not annotations)
            found.add(annotations.get("leeway.dev/reason", "accepted"))
    return found


@pytest.mark.parametrize(
    ("what", "name", "all_of_account"),
    [
        ("jti", jti_of, False),
        ("jti", lambda token: f"JTI={jti_of(token)}", False),
        ("serviceaccount", lambda _: "demo/{name}", True),
        ("user", lambda _: "system:serviceaccount:demo:{name}", True),
    ],
    ids=["jti", "credential-id", "serviceaccount", "user"],
)
def test_every_worker_refuses_from_its_next_request_on(
    server: RunningServer,
    request: pytest.FixtureRequest,
    what: str,
    name: Callable[[str], str],
    all_of_account: bool,
) -> None:
    account = request.node.callspec.id.replace("_", "-")
    caller = server.sign("caller")
    token, sibling, other = server.sign(account), server.sign(account), server.sign("unconcerned")
    headers = {"Authorization": f"Bearer {caller}", "Content-Type": "application/json"}
    body = json.dumps(review_of(token)).encode()
    with connections_to_every_worker(server) as connections:
        # Every worker has seen it, and has it in its cache.
        for connection in connections:
            answer = request_on(connection, "POST", REVIEWS, body, headers)
            assert answer.json["status"]["authenticated"] is True
        revoke(server, what, name(token).format(name=account))
        # At once, not after a second: on every open connection.
        for connection in connections:
            answer = request_on(connection, "POST", REVIEWS, body, headers)
            assert answer.json["status"]["authenticated"] is False
            assert answer.json["metadata"]["annotations"] == {"leeway.dev/reason": "Revoked"}
            error = answer.json["status"]["error"]
            assert error.startswith("service account token has been revoked: ")
            assert token not in answer.body.decode()
    expected = "Revoked" if all_of_account else "accepted"
    assert reviewed_by_every_worker(server, sibling, caller) == {expected}
    assert reviewed_by_every_worker(server, other, caller) == {"accepted"}
    # A token issued later is another token; within the leeway the two cannot be told apart.
    time.sleep(2)
    later = server.sign(account, ahead=int(LEEWAY_SECONDS) if all_of_account else 0)
    assert reviewed_by_every_worker(server, later, caller) == {"accepted"}


@pytest.mark.fault(46)
@pytest.mark.parametrize("name", ["demo/{}", "system:serviceaccount:demo:{}"])
def test_a_token_of_a_signer_whose_clock_is_ahead_is_revoked_too(
    server: RunningServer, name: str
) -> None:
    what = "user" if ":" in name else "serviceaccount"
    account = f"ahead-{what}"
    caller = server.sign("caller")
    token = server.sign(account, ahead=int(LEEWAY_SECONDS) - 2)
    assert reviewed_by_every_worker(server, token, caller) == {"accepted"}
    said = revoke(server, what, name.format(account))
    assert said.endswith(" (now, and 60s for clocks that are ahead) revoked\n")
    assert reviewed_by_every_worker(server, token, caller) == {"Revoked"}


def test_a_revoked_token_is_not_an_identity(server: RunningServer) -> None:
    token = server.sign("locked-out")
    headers = {"Authorization": f"Bearer {token}"}
    with connections_to_every_worker(server) as connections:
        for status in (201, 401):
            for connection in connections:
                answer = request_on(connection, "POST", WHO_AM_I, b"{}", headers)
                assert answer.status == status
                assert token not in answer.body.decode()
            revoke(server, "serviceaccount", "demo/locked-out")
        answer = request_on(connections[0], "POST", "/v3/auth/user/list", b"{}", headers)
        assert refusal(answer) == (401, 16, "etcdserver: invalid auth token")


def test_a_user_loses_its_auth_tokens_in_every_worker(server: RunningServer) -> None:
    for name in ("carol", "dave"):
        as_root(server, ("user/add", {"name": name, "password": PASSWORD}))
    carol, dave = log_in(server, "carol", PASSWORD), log_in(server, "dave", PASSWORD)
    with connections_to_every_worker(server) as connections:
        for connection in connections:
            assert call_on(connection, "user/get", {"name": "carol"}, carol).status == 200
        assert revoke(server, "user", "carol").startswith("Tokens of user carol issued up to ")
        for connection in connections:
            answer = call_on(connection, "user/get", {"name": "carol"}, carol)
            assert refusal(answer) == (401, 16, "etcdserver: invalid auth token")
            assert call_on(connection, "user/get", {"name": "dave"}, dave).status == 200
    assert log_in(server, "carol", PASSWORD) != carol


def range_review(server: RunningServer, token: str, permission: str = "READ") -> dict[str, object]:
    spec = {"token": token, "permission": permission, "key": b64(b"/a/"), "rangeEnd": b64(b"/a0")}
    answer = server.request("POST", RANGE_REVIEWS, json.dumps({"spec": spec}).encode())
    assert answer.status == 201, answer
    # It is not returned, whether it is valid or not.
    assert token not in answer.body.decode()
    assert answer.json["spec"]["token"] == ""
    status = answer.json["status"]
    assert isinstance(status, dict)
    return status


def test_a_range_access_review_by_token(server: RunningServer) -> None:
    token = server.sign("range-caller")
    status = range_review(server, token)
    assert (status["allowed"], status["roles"]) == (True, ["reviewers"])
    status = range_review(server, token, "WRITE")
    whole = [{"key": b64(b"/a/"), "rangeEnd": b64(b"/a0")}]
    assert (status["allowed"], status["uncovered"]) == (False, whole)
    as_root(
        server,
        ("user/add", {"name": "erin", "password": PASSWORD}),
        ("user/grant", {"user": "erin", "role": "reviewers"}),
    )
    assert range_review(server, log_in(server, "erin", PASSWORD))["allowed"] is True
    revoke(server, "jti", jti_of(token))
    for refused, why in (
        (token, "the token is refused: service account token has been revoked: jti"),
        (
            server.sign("range-caller", ahead=-7200),
            "the token is refused: service account token has expired",
        ),
        ("no.such.token", "the token is refused: it is neither of an issuer that is trusted here"),
    ):
        status = range_review(server, refused)
        assert (status["allowed"], status["roles"], status["uncovered"]) == (False, [], whole)
        assert str(status["reason"]).startswith(why)


def high_s_twin(token: str) -> str:
    """Return the other signature of ECDSA: (r, n - s) is as good as (r, s)."""
    start, _, signature = token.rpartition(".")
    data = unb64(signature)
    other = P256_ORDER - int.from_bytes(data[32:], "big")
    twin = data[:32] + other.to_bytes(32, "big")
    return f"{start}.{base64.urlsafe_b64encode(twin).rstrip(b'=').decode('ascii')}"


@pytest.mark.bad_input(13)
def test_a_revocation_outlives_the_server_and_another_encoding(
    tmp_path: Path,
) -> None:
    server = start_server(tmp_path, algorithm="ES256")
    try:
        token = server.sign("loofah")
        twin = high_s_twin(token)
        assert twin != token
        for each in (token, twin):
            assert server.post_review(each).json["status"]["authenticated"] is True
        # By the token in hand, whichever of the two it is.
        revoke(server, "jti", jti_of(twin))
        assert_both_revoked(server, token, twin)
    finally:
        server.stop()
    # Nothing is in a cache now.
    server = serve(server.data_dir, server.port)
    try:
        assert_both_revoked(server, twin, token)
        assert server.post_review(server.sign("loofah")).json["status"]["authenticated"] is True
    finally:
        server.stop()


def assert_both_revoked(server: RunningServer, *tokens: str) -> None:
    for token in tokens:
        answer = server.post_review(token).json
        assert answer["metadata"]["annotations"] == {"leeway.dev/reason": "Revoked"}
