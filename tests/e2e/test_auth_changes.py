"""Changes under load: auth turned on while clients work, tokens that end, slow log-ins."""

import datetime
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from keys.pki import CertifiedKey
from tests.support import JUDGES_TIMES, assert_within

from .auth import (
    BAD_TOKEN,
    DENIED,
    OVER_LIMIT,
    PASSWORD,
    RANGE_REVIEWS,
    ROOT,
    as_root,
    auth_server,
    call,
    call_on,
    connections_to_every_worker,
    grant,
    log_in,
    question,
    refusal,
)
from .harness import HOST, REVIEWS, Answer, RunningServer, request_on, review_of

_JSON = {"Content-Type": "application/json"}
_TIMING_SERIES = 5
_LOG_INS = 200
# Logs in on connections of its own, all at once, so that it is not this process that is slow.
_FLOOD = """\
import http.client, json, ssl, sys, threading, time
host, port, ca, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
context = ssl.create_default_context(cafile=ca)
body = json.dumps({"name": "alice", "password": sys.argv[5]})
connections = [
    http.client.HTTPSConnection(host, port, context=context, timeout=60) for _ in range(count)
]
for connection in connections:
    connection.connect()
print("connected", flush=True)
sys.stdin.readline()
statuses = []
def log_in(connection):
    while True:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v3/auth/authenticate", body, headers)
        response = connection.getresponse()
        response.read()
        if response.status != 503:
            break
        time.sleep(int(response.headers["Retry-After"]))
    statuses.append(response.status)
threads = [threading.Thread(target=log_in, args=[c]) for c in connections]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(statuses.count(200), flush=True)
"""


@pytest.fixture(scope="module", params=["simple", "jwt"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Run a server with each kind of tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    with auth_server(folder, BCRYPT_COST="4", TOKEN_PROVIDER=request.param) as running:
        as_root(
            running,
            ("role/add", {"name": "of-alice"}),
            ("role/add", {"name": "of-bob"}),
            ("role/grant", grant("of-alice", "READ", b"/a/", b"/a0")),
            ("user/add", {"name": "bob", "password": PASSWORD}),
            ("user/grant", {"user": "bob", "role": "of-bob"}),
        )
        yield running


@pytest.fixture
def alice(server: RunningServer) -> str:
    """Create alice again and return a token of hers."""
    call(server, "user/delete", {"name": "alice"}, ROOT)
    as_root(
        server,
        ("user/add", {"name": "alice", "password": PASSWORD}),
        ("user/grant", {"user": "alice", "role": "of-alice"}),
    )
    return log_in(server, "alice", PASSWORD)


Connections = Sequence[http.client.HTTPSConnection]


def _who(connections: Connections, token: str) -> list[Answer]:
    return [call_on(c, "user/get", {"name": "alice"}, token) for c in connections]


def _assert_works(connections: Connections, token: str) -> None:
    assert {answer.status for answer in _who(connections, token)} == {200}


def _assert_ended(connections: Connections, token: str) -> None:
    assert {refusal(answer) for answer in _who(connections, token)} == {BAD_TOKEN}
    for connection in connections:
        headers = {"Authorization": f"Bearer {token}"}
        for path in (REVIEWS, RANGE_REVIEWS, "/metrics"):
            method = "GET" if path == "/metrics" else "POST"
            assert request_on(connection, method, path, b"{}", headers).status == 401


def test_a_token_outlives_every_change_that_is_not_of_its_users_password(
    server: RunningServer, alice: str
) -> None:
    choose = random.Random(7)
    changes: list[tuple[str, Callable[[int], dict[str, object]]]] = [
        ("user/changepw", lambda n: {"name": "bob", "password": f"{PASSWORD}{n}"}),
        ("user/add", lambda n: {"name": f"user{n}", "password": PASSWORD}),
        ("user/delete", lambda n: {"name": f"user{n}"}),
        ("role/add", lambda n: {"name": f"role{n}"}),
        ("role/delete", lambda n: {"role": f"role{n}"}),
        ("user/grant", lambda n: {"user": "bob", "role": f"role{n}"}),
        ("role/grant", lambda n: dict(grant("of-bob", "READ", b"%d" % n))),
        ("role/grant", lambda n: dict(grant("of-alice", "WRITE", b"%d" % n))),
    ]
    changed = 0
    with (
        connections_to_every_worker(server) as connections,
        server.client(server.context(ROOT)) as root,
    ):
        for number in range(200):
            name, body = choose.choice(changes)
            changed += call_on(root, name, body(choose.randrange(8))).status == 200
            answer = _who([connections[number % len(connections)]], alice)[0]
            assert answer.status == 200, (name, answer)
        as_root(server, ("user/revoke", {"name": "alice", "role": "of-alice"}))
        _assert_works(connections, alice)
        as_root(server, ("user/grant", {"user": "alice", "role": "of-alice"}))
        _assert_works(connections, alice)
    assert changed > 80


@pytest.mark.bad_input(44)
def test_a_new_password_ends_the_tokens_of_the_old_one_in_every_worker(
    server: RunningServer, alice: str
) -> None:
    with connections_to_every_worker(server) as connections:
        for number in range(10):
            _assert_works(connections, alice)
            password = f"{PASSWORD}{number}"
            as_root(server, ("user/changepw", {"name": "alice", "password": password}))
            _assert_ended(connections, alice)
            alice = log_in(server, "alice", password)


@pytest.mark.bad_input(44)
def test_deletion_ends_the_tokens_even_when_the_name_comes_back(
    server: RunningServer, alice: str
) -> None:
    with connections_to_every_worker(server) as connections:
        _assert_works(connections, alice)
        as_root(server, ("user/delete", {"name": "alice"}))
        _assert_ended(connections, alice)
        as_root(server, ("user/add", {"name": "alice", "password": PASSWORD}))
        _assert_ended(connections, alice)
        _assert_works(connections, log_in(server, "alice", PASSWORD))


@pytest.mark.bad_input(44)
@pytest.mark.parametrize(
    "token",
    ["x", "no.such.token", "a" * 2000, "\xff", "Basic YWxpY2U6cHc=", "eyJhbGciOiJub25lIn0.e30."],
)
def test_text_that_was_never_a_token(server: RunningServer, token: str) -> None:
    assert refusal(call(server, "user/list", {}, token=token)) == BAD_TOKEN


@pytest.mark.bad_input(44)
def test_a_token_with_a_character_changed(server: RunningServer, alice: str) -> None:
    for place in range(0, len(alice), max(1, len(alice) // 20)):
        other = "A" if alice[place] != "A" else "B"
        forged = alice[:place] + other + alice[place + 1 :]
        assert refusal(call(server, "user/get", {"name": "alice"}, token=forged)) == BAD_TOKEN


def test_a_service_account_token_is_not_an_auth_token(server: RunningServer) -> None:
    # Signed by the same keyring as the auth tokens of the provider jwt. It is an identity of its
    # own, and only where it is meant for this server.
    for audiences, expected in ((), DENIED), (("vault",), BAD_TOKEN):
        token = server.sign("alice", audiences=audiences)
        answer = call(server, "user/get", {"name": "alice"}, token=token)
        assert refusal(answer) == expected


def test_an_auth_token_is_not_a_service_account_token(server: RunningServer, alice: str) -> None:
    status = server.post_review(alice).json["status"]
    assert status == {"user": {}} or status["authenticated"] is False


def test_a_simple_token_expires_after_its_last_use(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = {"BCRYPT_COST": "4", "AUTH_TOKEN_TTL": "4s"}
    with auth_server(tmp_path_factory.mktemp("ttl"), **settings) as server:
        as_root(server, ("user/add", {"name": "alice", "password": PASSWORD}))
        used, unused = log_in(server, "alice", PASSWORD), log_in(server, "alice", PASSWORD)
        with connections_to_every_worker(server) as connections:
            for number in range(8):
                time.sleep(0.6)
                _assert_works([connections[number % len(connections)]], used)
            _assert_ended(connections, unused)
            # A use in one worker counts in all workers.
            _assert_works(connections, used)
            time.sleep(4.4)
            _assert_ended(connections, used)
            time.sleep(0.3)
            _assert_ended(connections, used)


class _Clients:
    """Threads that keep sending a request each until they are told to stop."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.answers: list[tuple[float, Answer]] = []
        self.errors: list[BaseException] = []

    def start(self, path: str, body: bytes) -> None:
        self._threads.append(threading.Thread(target=self._run, args=(path, body)))
        self._threads[-1].start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, path: str, body: bytes) -> None:
        try:
            with self._server.client() as connection:
                while not self._stop.is_set():
                    started = time.perf_counter()
                    answer = request_on(connection, "POST", path, body, _JSON)
                    self.answers.append((time.perf_counter() - started, answer))
                    time.sleep(0.01)
        except BaseException as error:
            self.errors.append(error)


def test_auth_is_enabled_while_clients_keep_working(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with auth_server(tmp_path_factory.mktemp("enable"), BCRYPT_COST="4") as server:
        as_root(
            server,
            ("disable", {}),
            ("role/add", {"name": "readers"}),
            ("role/grant", grant("readers", "READ", b"/a/", b"/a0")),
            ("user/add", {"name": "alice", "password": PASSWORD}),
            ("user/grant", {"user": "alice", "role": "readers"}),
        )
        clients = _Clients(server)
        review = json.dumps(review_of(server.sign())).encode()
        for _ in range(4):
            clients.start(REVIEWS, review)
            clients.start(RANGE_REVIEWS, question("alice", "READ", b"/a/", b"/a0"))
        time.sleep(0.5)
        for _ in range(5):
            as_root(server, ("enable", {}))
            time.sleep(0.4)
            as_root(server, ("disable", {}))
            time.sleep(0.2)
        as_root(server, ("enable", {}))
        time.sleep(0.5)
        clients.stop()
        assert clients.errors == []
        assert len(clients.answers) > 400
        assert {answer.status for _, answer in clients.answers} == {201}
        statuses = [answer.json["status"] for _, answer in clients.answers]
        assert {s.get("authenticated", s.get("allowed")) for s in statuses} == {True}


def test_enabling_auth_applies_to_every_worker_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("mallory")
    with auth_server(folder, BCRYPT_COST="4") as server:
        mallory: CertifiedKey = server.client_certificate("mallory", _now())
        context = server.context_of(mallory, folder)
        review = json.dumps(review_of(server.sign())).encode()
        asked = question("alice", "READ", b"/a/")
        with connections_to_every_worker(server) as spare:
            connections = [
                http.client.HTTPSConnection(HOST, server.port, context=context, timeout=15)
                for _ in range(3 * len(spare))
            ]
            for _ in range(5):
                for name, expected in (("disable", 201), ("enable", 403)):
                    as_root(server, (name, {}))
                    for connection in connections:
                        for path, body in ((REVIEWS, review), (RANGE_REVIEWS, asked)):
                            answer = request_on(connection, "POST", path, body, _JSON)
                            assert answer.status == expected, (name, path, answer)
            for connection in connections:
                connection.close()


@pytest.mark.bad_input(45)
def test_reviews_go_on_while_200_users_log_in_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cost = {} if JUDGES_TIMES else {"BCRYPT_COST": "8"}
    with auth_server(tmp_path_factory.mktemp("flood"), OVER_LIMIT, **cost) as server:
        as_root(server, ("user/add", {"name": "alice", "password": PASSWORD}))
        ca = str(server.data_dir / "tls" / "ca.crt")
        command = [
            sys.executable,
            "-c",
            _FLOOD,
            HOST,
            str(server.port),
            ca,
            str(_LOG_INS),
            PASSWORD,
        ]
        clients = _Clients(server)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as flood:
            assert flood.stdin is not None
            assert flood.stdout is not None
            assert flood.stdout.readline() == "connected\n"
            for _ in range(4):
                clients.start(REVIEWS, json.dumps(review_of(server.sign())).encode())
            started = time.monotonic()
            flood.stdin.write("\n")
            flood.stdin.flush()
            assert flood.stdout.readline() == f"{_LOG_INS}\n"
            seconds = time.monotonic() - started
        clients.stop()
        assert clients.errors == []
        assert {answer.status for _, answer in clients.answers} == {201}
        times = sorted(spent for spent, _ in clients.answers)
        p99 = times[len(times) * 99 // 100]
        print(
            f"{_LOG_INS} log-ins in {seconds:.1f} s; {len(times)} reviews: "
            f"median {statistics.median(times) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
        )
        assert len(times) > 100
        assert_within(p99, 0.5)


@pytest.mark.bad_input(45)
def test_an_unknown_user_takes_as_much_work_as_a_wrong_password(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bodies = {
        "wrong password": {"name": "alice", "password": "wrong"},
        "unknown user": {"name": "nobody", "password": "wrong"},
        "no password": {"name": "certified", "password": "wrong"},
        "empty password": {"name": "alice", "password": ""},
    }
    with auth_server(tmp_path_factory.mktemp("timing"), BCRYPT_COST="8") as server:
        as_root(
            server,
            ("user/add", {"name": "alice", "password": PASSWORD}),
            ("user/add", {"name": "certified", "options": {"no_password": True}}),
        )
        answers = set()
        workers = server.both_workers()
        for _ in range(_TIMING_SERIES):
            times: dict[str, list[float]] = {name: [] for name in bodies}
            with server.client(server.context("")) as connection:
                for _ in range(30):
                    for name, body in bodies.items():
                        started = _cpu_seconds(workers)
                        answer = call_on(connection, "authenticate", body)
                        times[name].append(_cpu_seconds(workers) - started)
                        answers.add(refusal(answer))
            typical = {name: statistics.quantiles(found)[0] for name, found in times.items()}
            print({name: f"{seconds * 1000:.2f} ms" for name, seconds in typical.items()})
            base = typical["wrong password"]
            if all(abs(seconds - base) <= 0.1 * base for seconds in typical.values()):
                break
        else:
            pytest.fail(f"one kind takes longer than another: {typical}")
    text = "etcdserver: authentication failed, invalid user ID or password"
    assert answers == {(400, 3, text)}


def _cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time that processes have used, which does not depend on what else runs."""
    # The clock of a process, as clock_getcpuclockid(3) names it.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
