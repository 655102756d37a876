"""What a server logs: one JSON object a line, with the reason and without secrets."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from webhook.telemetry.audit import fingerprint

from .auth import PASSWORD, as_root, call, grant, log_in
from .faulty_server import JWT
from .harness import (
    HOST,
    REVIEWS,
    RunningServer,
    raw_review,
    records_of,
    request_on,
    start_server,
    trouble_in,
)

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TOKENS_PATH = "/api/v1/namespaces/demo/serviceaccounts/build/token"
SUBJECT = "system:serviceaccount:demo:default"
OURS = "https://leeway.default.svc"
JSON = {"Content-Type": "application/json"}
Record = dict[str, Any]


@contextlib.contextmanager
def served(folder: Path, **options: Any) -> Iterator[RunningServer]:
    """Run a server, and stop it at the end if it still runs."""
    server = start_server(folder, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with served(tmp_path_factory.mktemp("logs")) as running:
        yield running
        running.stop()
        assert_records(records_of(running.log()))


@pytest.mark.fault(23)
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_a_server_logs_once_that_it_is_ready_and_how_to_check(server: RunningServer) -> None:
    server.both_workers()
    (line,) = (
        record["message"]
        for record in records_of(server.log())
        if record["message"].startswith("ready at ")
    )
    url, _, command = line.removeprefix("ready at ").partition("; to check: ")
    assert url == f"https://{HOST}:{server.port}"
    done = subprocess.run(shlex.split(command), check=True, capture_output=True)
    assert done.stdout == b"ok"


def assert_records(records: list[Record]) -> None:
    """Assert the members that every record has."""
    for record in records:
        assert list(record)[:4] == ["time", "level", "message", "pid"], record
        assert TIME.fullmatch(record["time"])
        assert record["level"] in ("debug", "info", "warning", "error", "critical")
        assert record["message"]


def caused(
    server: RunningServer, act: Callable[[], object], wanted: int = 1, event: str = ""
) -> list[Record]:
    """Return the records with an event that an action makes a server write."""
    before = len(server.log())
    act()
    deadline = time.monotonic() + 10
    while True:
        text = server.log()[before:]
        records = [r for r in records_of(text[: text.rfind("\n") + 1]) if "event" in r]
        found = [r for r in records if event in ("", r["event"])]
        if len(found) >= wanted or time.monotonic() > deadline:
            assert len(found) == wanted, records
            return found
        time.sleep(0.02)


def test_a_refused_token(server: RunningServer) -> None:
    token = server.sign(ahead=92)
    headers = JSON | {"X-Request-Id": "req-1"}
    body = raw_review(token).partition(b"\r\n\r\n")[2]
    (record,) = caused(server, lambda: server.request("POST", REVIEWS, body, headers))
    logged = datetime.fromisoformat(record.pop("time"))
    assert abs((datetime.now(UTC) - logged).total_seconds()) < 60
    assert 0 < record.pop("durationMs") < 10_000
    assert record.pop("pid") != server.process.pid
    message = "service account token is not valid yet: nbf is 92s ahead of this server's clock"
    assert record.pop("message").startswith(message)
    assert record == {
        "level": "info", "event": "tokenreview", "requestId": "req-1", "caller": "kube-apiserver",
        "fingerprint": fingerprint(token), "reason": "NotYetValid", "issuer": OURS,
        "subject": SUBJECT,
    }  # fmt: skip


def without_signature(server: RunningServer) -> str:
    return server.sign().rpartition(".")[0] + "." + "A" * 342


REFUSED: list[tuple[Callable[[RunningServer], object], str, bool]] = [
    (lambda server: server.sign(ahead=-8000), "Expired", True),
    (lambda server: server.sign(audiences=["vault"]), "AudienceMismatch", True),
    (without_signature, "BadSignature", False),
    (lambda server: "nothing", "Malformed", False),
    (lambda server: "a\nb.\x1b[31m.\u2028", "Malformed", False),
    (lambda server: "e30.eyJpc3MiOiJodHRwczovL29cbnRoZXIiLCJhIjoxfQ.AA", "NotRecognised", False),
]


@pytest.mark.parametrize(
    ("make", "reason", "is_known"), REFUSED, ids=[f"{case[1]}" for case in REFUSED]
)
def test_issuer_and_subject_are_logged_only_if_the_signature_is_valid(
    server: RunningServer, make: Callable[[RunningServer], str], reason: str, is_known: bool
) -> None:
    token = make(server)
    (record,) = caused(server, lambda: server.post_review(token))
    assert (record["event"], record["reason"]) == ("tokenreview", reason)
    assert record["fingerprint"] == fingerprint(token)
    assert record.get("subject") == (SUBJECT if is_known else None)
    assert record.get("issuer") == (OURS if is_known else None)


def test_an_accepted_token_is_not_logged(server: RunningServer) -> None:
    token = server.sign()

    def act() -> None:
        assert server.post_review(token).json["status"]["authenticated"] is True
        server.request("GET", "/marker")

    (record,) = caused(server, act)
    assert record["path"] == "/marker"


ERRORS = [
    ("GET", "/metrics", "", 401, "denied"),
    ("GET", "/nope", "kube-apiserver", 404, "request"),
    ("GET", REVIEWS, "kube-apiserver", 405, "request"),
    ("POST", TOKENS_PATH, "kube-apiserver", 403, "denied"),
    ("POST", REVIEWS, "kube-apiserver", 400, "request"),
    ("GET", "/x%0a%7b%1b%c2%85", "kube-apiserver", 400, "request"),
]


@pytest.mark.parametrize(("method", "path", "user", "code", "event"), ERRORS)
def test_errors_have_a_line_and_their_request_id(
    server: RunningServer, method: str, path: str, user: str, code: int, event: str
) -> None:
    answers = []
    body = b"{" if method == "POST" else None
    context = server.context(user)

    def act() -> None:
        answers.append(server.request(method, path, body, JSON, context))

    (record,) = caused(server, act)
    (answer,) = answers
    assert (answer.status, record["code"], record["event"]) == (code, code, event)
    assert (record["level"], record["method"]) == ("info", method)
    assert record["message"] == answer.json["message"]
    assert record["requestId"] == answer.headers["x-request-id"]
    assert record.get("caller", "") == user
    assert record["path"] == path.replace("%0a%7b%1b%c2%85", "\n{\x1b\x85")


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"X-Request-Id": "a.B_c-1"}, "a.B_c-1"),
        ({"Audit-Id": "9c5d0c4e"}, "9c5d0c4e"),
        ({"X-Request-Id": "a b"}, ""),
        ({"X-Request-Id": "x" * 65}, ""),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("path", ["/nope", REVIEWS])
def test_a_valid_request_id_of_the_client_is_kept(
    server: RunningServer, headers: dict[str, str], kept: str, path: str
) -> None:
    found = server.request("GET", path, headers=headers).headers["x-request-id"]
    assert found == kept if kept else re.fullmatch("[0-9a-f]{16}", found)


def test_a_token_as_identity_is_named_by_its_fingerprint(server: RunningServer) -> None:
    token = server.sign(ahead=-8000)
    headers = {"Authorization": f"Bearer {token}"}
    context = server.context("")
    (record,) = caused(
        server, lambda: server.request("GET", "/metrics", headers=headers, context=context)
    )
    assert (record["event"], record["fingerprint"]) == ("denied", fingerprint(token))
    headers = {"Authorization": "Basic YWxpY2U6cHc="}
    (record,) = caused(
        server, lambda: server.request("GET", "/metrics", headers=headers, context=context)
    )
    assert (record["event"], record.get("fingerprint")) == ("denied", None)


def audits(server: RunningServer, act: Callable[[], object], wanted: int = 1) -> list[Record]:
    return caused(server, act, wanted, "audit")


def test_audit(server: RunningServer) -> None:
    alice = {"name": "alice", "password": PASSWORD}
    both = {"user": "alice", "role": "r"}
    calls = [
        ("user/add", alice, "user.add", {"user": "alice"}),
        ("role/add", {"name": "r"}, "role.add", {"role": "r"}),
        (
            "role/grant", grant("r", "READ", b"/a/", b"/b/"), "role.grant-permission",
            {"role": "r", "permission": "READ", "keys": "[/a/, /b/)"},
        ),
        ("user/grant", both, "user.grant-role", both),
        ("user/revoke", {"name": "alice", "role": "r"}, "user.revoke-role", both),
        (
            "role/revoke", {"role": "r", "key": "L2Ev", "range_end": "L2Iv"},
            "role.revoke-permission", {"role": "r", "keys": "[/a/, /b/)"},
        ),
        ("role/delete", {"role": "r"}, "role.delete", {"role": "r"}),
        ("user/changepw", alice, "user.passwd", {"user": "alice"}),
        ("disable", {}, "auth.disable", {}),
        ("enable", {}, "auth.enable", {}),
    ]  # fmt: skip
    revisions = []
    for name, body, action, about in calls:
        (record,) = audits(server, partial(as_root, server, (name, body)))
        revisions.append(record.pop("revision"))
        assert record.pop("requestId")
        del record["time"], record["pid"]
        assert record == {
            "level": "info", "message": f"{action} done", "event": "audit", "action": action,
            "outcome": "done", "via": "server", "caller": "root", **about,
        }  # fmt: skip
    assert revisions == sorted(revisions)
    asked = call(server, "status", {}, "root").json
    assert str(revisions[-1]) == asked["authRevision"]
    questions = [
        ("user/list", {}),
        ("user/get", {"name": "alice"}),
        ("role/list", {}),
        ("status", {}),
    ]
    assert audits(server, lambda: as_root(server, *questions), 0) == []


def test_log_ins_and_refused_changes_have_a_line(server: RunningServer) -> None:
    as_root(server, ("user/add", {"name": "bob", "password": PASSWORD}))
    tokens: list[str] = []
    (record,) = audits(server, lambda: tokens.append(log_in(server, "bob", PASSWORD)))
    assert (record["action"], record["outcome"]) == ("user.authenticate", "done")
    assert (record["user"], record.get("caller")) == ("bob", None)
    wrong = {"name": "bob", "password": PASSWORD[::-1]}
    (record,) = audits(server, lambda: call(server, "authenticate", wrong))
    assert (record["outcome"], record["user"]) == ("denied", "bob")
    assert record["reason"].startswith("etcdserver: authentication failed")
    body = {"name": "eve", "password": PASSWORD}
    (record,) = audits(server, lambda: call(server, "user/add", body, token=tokens[0]))
    assert (record["action"], record["outcome"]) == ("user.add", "denied")
    assert (record["caller"], record["user"]) == ("bob", "eve")
    (record,) = audits(server, lambda: call(server, "user/delete", {"name": "nobody"}, "root"))
    assert (record["outcome"], record["reason"]) == ("failed", "etcdserver: user name not found")
    assert not [
        secret for secret in (PASSWORD, PASSWORD[::-1], tokens[0]) if secret in server.log()
    ]


def test_tokens_issued_have_a_line(server: RunningServer) -> None:
    asked = {"spec": {"audiences": ["vault"], "expirationSeconds": 600}}
    tokens: list[str] = []

    def issue() -> None:
        answer = server.post(TOKENS_PATH, asked, server.context("root"))
        tokens.append(answer.json["status"]["token"])

    (record,) = audits(server, issue)
    assert (record["action"], record["outcome"]) == ("token.issue", "done")
    assert (record["caller"], record["audiences"]) == ("root", ["vault"])
    assert record["subject"] == "system:serviceaccount:demo:build"
    assert record["fingerprint"] == fingerprint(tokens[0])
    assert {"jti", "expiresAt", "requestId"} <= set(record)
    assert tokens[0].rpartition(".")[2][:40] not in server.log()


def test_impersonation_is_logged(server: RunningServer) -> None:
    headers = JSON | {"Impersonate-User": "mallory"}
    context = server.context("root")
    (record,) = caused(server, lambda: server.request("POST", REVIEWS, b"{}", headers, context))
    assert (record["event"], record["code"]) == ("denied", 403)
    assert (record["caller"], record["actingAs"]) == ("root", "mallory")


def test_faults_are_logged_as_records(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("faulty_server.py"))]
    with served(tmp_path, program=program) as server:
        answers = [server.request("GET", path) for path in ("/faulty", "/apis", "/faulty/beside")]
        assert [answer.status for answer in answers] == [500, 500, 204]
        assert server.request("GET", "/livez").status == 200
        with socket.create_connection((HOST, server.port)) as broken:
            broken.sendall(b"this is not TLS\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    log = server.log()
    records = records_of(log)
    assert_records(records)
    assert not [secret for secret in (JWT, JWT[-20:], "MIIEv", "\x1b") if secret in log]
    for answer in answers[:2]:
        (crash,) = [r for r in records if r.get("requestId") == answer.headers["x-request-id"]]
        assert (crash["level"], crash["message"], crash["code"]) == (
            "error",
            "a request failed",
            500,
        )
        assert crash["traceback"].startswith("Traceback (most recent call last):\n")
        assert crash["traceback"].endswith(
            'ValueError: a token [redacted] and a key [redacted]\n{"level": "forged"}\x1b[31m'
        )
    messages = {r["message"]: r for r in records}
    assert "traceback" in messages["thread planted ended by an exception"]
    (forgotten,) = [r for r in records if "never retrieved" in r["message"]]
    assert "traceback" in forgotten
    assert [m for m in messages if "UserWarning: a warning with [redacted]" in m]
    assert {"printed [redacted]", "and more"} <= set(messages)
    assert len([r for r in records if "traceback" in r]) == 4


def test_a_worker_that_is_killed_and_one_that_cannot_start(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        workers = server.both_workers()
        (server.data_dir / "leeway.yaml").write_text("kind: Nonsense\n")
        worker = workers[0]
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while "This worker cannot start" not in server.log():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    records = records_of(server.log())
    assert_records(records)
    assert [r for r in records if "Nonsense" in r["message"] + r.get("traceback", "")]


def test_a_flood_of_refusals_is_bounded(tmp_path: Path) -> None:
    posted = 4000
    with served(tmp_path, environment={"LEEWAY_SERVER_WORKERS": "1"}) as server:

        def flood(number: int) -> None:
            with server.client() as connection:
                for index in range(posted // 8):
                    body = json.dumps({"spec": {"token": f"no-token-{number}-{index}"}}).encode()
                    assert request_on(connection, "POST", REVIEWS, body, JSON).status == 201

        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(flood, range(8)))
        seconds = time.monotonic() - started
        time.sleep(1.5)
        server.stop()
    records = records_of(server.log())
    events = Counter(r.get("event") for r in records)
    left_out = [r for r in records if r.get("event") == "left-out"]
    assert events["tokenreview"] + sum(r["count"] for r in left_out) == posted
    assert events["tokenreview"] <= 100 * (seconds + 1)
    assert 1 <= len(left_out) <= seconds + 2
    assert {(r["of"], r["level"]) for r in left_out} == {("tokenreview", "info")}
    assert events["tokenreview"] < posted


def test_level_debug_logs_what_was_accepted_and_denied(tmp_path: Path) -> None:
    with served(tmp_path, environment={"LEEWAY_SERVER_LOG_LEVEL": "debug"}) as server:
        token = server.sign()
        (record,) = caused(server, lambda: server.post_review(token))
        assert (record["level"], record["message"]) == ("debug", "token accepted")
        assert (record["subject"], record["fingerprint"]) == (SUBJECT, fingerprint(token))
        spec = {
            "user": "eve",
            "resourceAttributes": {"verb": "get", "resource": "pods", "name": "a"},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        (record,) = caused(server, lambda: server.post(path, {"spec": spec}))
        assert (record["level"], record["event"]) == ("debug", "accessreview")
        assert (record["user"], record["allowed"]) == ("eve", False)
        server.stop()


def test_level_error_still_logs_changes(tmp_path: Path) -> None:
    with served(tmp_path, environment={"LEEWAY_SERVER_LOG_LEVEL": "error"}) as server:
        server.post_review("nothing")
        server.request("GET", "/nope")
        as_root(server, ("role/add", {"name": "r"}))
        server.stop()
    (record,) = records_of(server.log())
    assert record["action"] == "role.add"


def test_text_format(tmp_path: Path) -> None:
    with served(tmp_path, environment={"LEEWAY_SERVER_LOG_FORMAT": "text"}) as server:
        token = server.sign(ahead=92)
        server.post_review(token)
        server.request("GET", "/x%0a[2026-01-01%2000:00:00%20+0000]%20[1]%20[ERROR]%20forged")
        as_root(server, ("role/add", {"name": "a\nb c"}))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    log = server.log()
    start = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000\] \[\d+\] \[INFO\] \S")
    assert [line for line in log.splitlines() if not start.match(line)] == []
    assert f"caller=kube-apiserver fingerprint={fingerprint(token)} reason=NotYetValid" in log
    assert "/x\\u000a[2026-01-01" in log
    assert 'role="a\\u000ab c"' in log
    assert trouble_in(log) != []
