"""Shared by tests of the auth API: servers with settings of their own, and calls."""

import base64
import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.secrets_made import password_made

from .harness import HOST, TIMEOUT, Answer, RunningServer, request_on, start_server

RANGE_REVIEWS = "/apis/leeway.dev/v1/rangeaccessreviews"
API_SERVER = "kube-apiserver"
ROOT = "root"
# Long enough to be searched for.
PASSWORD = "alice-Hk2vQ8sYt4Lw9Zd"
NO_IDENTITY = (400, 3, "etcdserver: user name is empty")
BAD_TOKEN = (401, 16, "etcdserver: invalid auth token")
DENIED = (403, 7, "etcdserver: permission denied")

# Log-ins or connections beyond a limit.
OVER_LIMIT = r'"event": "over-limit"|"of": "over-limit"'

Body = Mapping[str, object]


@contextmanager
def auth_server(
    folder: Path, expected_trouble: str = "", **settings: str
) -> Iterator[RunningServer]:
    """Run a server with settings from the environment: ``BCRYPT_COST``, ``TOKEN_PROVIDER``.

    ``expected_trouble`` is a regular expression for lines of its log, as in ``RunningServer.stop``.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"LEEWAY_AUTH_{name}", value)
        running = start_server(folder)
    try:
        yield running
    finally:
        running.stop(expected_trouble)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def call_on(
    connection: http.client.HTTPSConnection, name: str, body: Body, token: str = ""
) -> Answer:
    if isinstance(password := body.get("password"), str):
        password_made(password)
    headers = {"Authorization": token} if token else {}
    return request_on(connection, "POST", f"/v3/auth/{name}", json.dumps(body).encode(), headers)


def call(server: RunningServer, name: str, body: Body, user: str = "", token: str = "") -> Answer:
    """Make a call with the certificate of a user, with a token, or with neither."""
    with server.client(server.context(user)) as connection:
        return call_on(connection, name, body, token)


def as_root(server: RunningServer, *calls: tuple[str, Body]) -> None:
    """Make calls that must succeed, with root's certificate."""
    with server.client(server.context(ROOT)) as connection:
        for name, body in calls:
            answer = call_on(connection, name, body)
            assert answer.status == 200, (name, body, answer)


def log_in(server: RunningServer, name: str, password: str) -> str:
    answer = call(server, "authenticate", {"name": name, "password": password})
    assert answer.status == 200, answer
    token: str = answer.json["token"]
    return token


def refusal(answer: Answer) -> tuple[int, int, str]:
    """Return the code and the message of an error of etcd's API, which has no other member."""
    assert set(answer.json) == {"code", "message"}, answer
    return answer.status, answer.json["code"], answer.json["message"]


def grant(role: str, kind: str, key: bytes, end: bytes = b"") -> Body:
    return {"name": role, "perm": {"permType": kind, "key": b64(key), "range_end": b64(end)}}


def question(user: str, permission: str, key: bytes, end: bytes = b"") -> bytes:
    """Return a RangeAccessReview."""
    spec = {"user": user, "permission": permission, "key": b64(key), "rangeEnd": b64(end)}
    return json.dumps(
        {"apiVersion": "leeway.dev/v1", "kind": "RangeAccessReview", "spec": spec}
    ).encode()


def ask(server: RunningServer, user: str, permission: str, key: bytes, end: bytes = b"") -> Answer:
    """Post a RangeAccessReview for a user, as kube-apiserver."""
    return server.request("POST", RANGE_REVIEWS, question(user, permission, key, end))


@contextmanager
def connections_to_every_worker(
    server: RunningServer, user: str = "", each: int = 2
) -> Iterator[Sequence[http.client.HTTPSConnection]]:
    """Open connections, by default without certificate, until every worker has some."""
    workers = server.both_workers()
    before = {pid: _sockets(pid) for pid in workers}
    with ExitStack() as stack:
        opened = []
        for _ in range(300):
            connection = http.client.HTTPSConnection(
                HOST, server.port, context=server.context(user), timeout=TIMEOUT
            )
            stack.callback(connection.close)
            connection.connect()
            opened.append(connection)
            if len(opened) >= 8 and all(_sockets(pid) >= before[pid] + each for pid in workers):
                yield opened
                return
    raise AssertionError("one worker takes all connections")


def _sockets(pid: int) -> int:
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += str(entry.readlink()).startswith("socket:")
    return count
