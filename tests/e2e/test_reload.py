"""Keys, certificates and configuration replaced under a running server: bad input 55."""

import http.client
import os
import re
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from keys import jws
from keys.files import replace_file
from keys.folder import load_keyring
from keys.folder_changes import rotate
from keys.pki import CertifiedKey, make_ca, make_client_certificate, make_server_certificate
from tests.support import revocation_list
from webhook.assembly import rotation_policy_of
from webhook.config.load import load_configuration
from webhook.config.paths import read_pair

from .auth import connections_to_every_worker
from .faulty_server import PLANTED
from .harness import (
    HOST,
    RunningServer,
    free_port,
    raw_review,
    records_of,
    request_on,
    start_server,
)

CONNECTIONS = 16
# ``make chaos`` replaces keys and certificates 100 times.
REPLACEMENTS = int(os.environ.get("TEST_RELOADS", "4"))
CONFIGURATIONS = max(2, REPLACEMENTS // 5)
# The requirement: new files are used within so many seconds.
WITHIN_SECONDS = 10.0
TROUBLE = r"(not loaded|not read) again|cannot start|exited with code|SIGKILL|\[!\]"
TOKEN_PATH = "/api/v1/namespaces/demo/serviceaccounts/default/token"


@contextmanager
def running_in(folder: Path) -> Iterator[RunningServer]:
    running = start_server(folder, algorithm="ES256")
    with connections_to_every_worker(running):
        pass
    yield running
    running.stop(expected_trouble=TROUBLE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Run a server for a test that leaves it another one."""
    with running_in(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run a server for the tests that put back what they break."""
    with running_in(tmp_path_factory.mktemp("shared")) as running:
        yield running


def soon(condition: Callable[[], bool]) -> float:
    """Wait until something holds, and return the seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < WITHIN_SECONDS
        time.sleep(0.05)
    return time.monotonic() - started


def kid_in_use(server: RunningServer) -> str:
    keyring = load_keyring(server.data_dir / "keys")
    assert keyring.active is not None
    return keyring.active.kid


def published(connection: http.client.HTTPSConnection) -> set[str]:
    answer = request_on(connection, "GET", "/openid/v1/jwks")
    return {key["kid"] for key in answer.json["keys"]}


def rotate_now(server: RunningServer) -> str:
    """Make a new key the active one without waiting, and return its kid."""
    policy = rotation_policy_of(load_configuration(server.data_dir, {}, {}))
    for _ in range(2):
        rotate(server.data_dir / "keys", policy, int(time.time()), force=True)
    return kid_in_use(server)


def certificate_of(server: RunningServer) -> bytes:
    with server.connect() as connection:
        return connection.getpeercert(binary_form=True) or b""


def has_certificate(server: RunningServer, certificate: bytes) -> bool:
    return certificate_of(server) == certificate


def is_signed_by(server: RunningServer, kid: str) -> bool:
    return jws.header(jws.parse(issue(server))).kid == kid


def write_pair(folder: Path, name: str, pair: CertifiedKey) -> None:
    replace_file(folder / f"{name}.key", pair.private_key)
    replace_file(folder / f"{name}.crt", pair.certificate, 0o644)


def renew_certificate(server: RunningServer) -> bytes:
    names = [HOST, "localhost"]
    pair = make_server_certificate(server.ca, "leeway", names, datetime.now(UTC))
    write_pair(server.data_dir / "tls", "server", pair)
    return ssl.PEM_cert_to_DER_cert(pair.certificate.decode("ascii"))


def edit(server: RunningServer, change: Callable[[str], str]) -> None:
    path = server.data_dir / "leeway.yaml"
    path.write_text(change(path.read_text()))


def set_leeway(server: RunningServer, seconds: int) -> None:
    def change(text: str) -> str:
        kept = re.sub(r"(?m)^leeway: .*\n", "", text)
        return f"{kept}leeway: {{notBefore: {seconds}s, issuedAt: {seconds}s}}\n"

    edit(server, change)


def accepted(server: RunningServer, token: str) -> bool:
    return bool(server.post_review(token).json["status"]["authenticated"])


class Load:
    """Clients that send requests continuously, on connections that they keep or open again."""

    def __init__(self, server: RunningServer, tokens: Callable[[], str]) -> None:
        self.server = server
        self.tokens = tokens
        self.answered = 0
        self.failures: list[str] = []
        self.stopped = threading.Event()
        self.context = server.context()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._ask, args=(place % 4 == 0,))
            for place in range(CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _ask(self, again: bool) -> None:
        while not self.stopped.is_set():
            try:
                with self.server.client(self.context) as connection:
                    while not self.stopped.is_set():
                        self._ask_once(connection)
                        time.sleep(0.04)
                        if again:
                            break
            except Exception as error:
                self.failures.append(repr(error))
                return

    def _ask_once(self, connection: http.client.HTTPSConnection) -> None:
        request = raw_review(self.tokens())
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        answer = request_on(connection, "POST", path, body, {"Content-Type": "application/json"})
        if answer.status != 201 or not answer.json["status"]["authenticated"]:
            self.failures.append(f"{answer.status}: {answer.body[:300]!r}")
        self.answered += 1


@pytest.mark.bad_input(55)
def test_everything_is_replaced_under_load(server: RunningServer) -> None:
    newest = [server.sign()]
    load = Load(server, lambda: newest[0])
    with load.running():
        for turn in range(REPLACEMENTS):
            kid, certificate = rotate_now(server), renew_certificate(server)
            # Asked for over HTTP: by now the server that signs it has the new key.
            soon(partial(is_signed_by, server, kid))
            newest[0] = issue(server)
            soon(partial(has_certificate, server, certificate))
            if turn % (REPLACEMENTS // CONFIGURATIONS) == 0:
                seconds = 100 + turn % 50
                set_leeway(server, seconds)
                ahead = server.sign(ahead=seconds - 5)
                soon(partial(accepted, server, ahead))
        assert not load.failures, load.failures[:3]
    assert load.answered > 100
    assert not load.failures, load.failures[:3]


def issue(server: RunningServer) -> str:
    answer = server.post(TOKEN_PATH, {"spec": {}}, server.context("root"))
    assert answer.status == 201, answer
    token: str = answer.json["status"]["token"]
    server.tokens.append(token)
    return token


def test_a_token_of_a_new_key_is_accepted_by_the_other_worker_at_once(
    shared: RunningServer,
) -> None:
    with connections_to_every_worker(shared) as connections:
        before = {frozenset(published(connection)) for connection in connections}
        assert len(before) == 1
    # Signed on the command line: no worker has read the folder since.
    rotate_now(shared)
    token = shared.sign()
    for _ in range(4):
        assert accepted(shared, token)


def test_the_jwks_of_every_worker_is_updated(shared: RunningServer) -> None:
    kid = rotate_now(shared)
    with connections_to_every_worker(shared) as connections:
        soon(lambda: all(kid in published(connection) for connection in connections))


def test_client_ca(shared: RunningServer, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ca = make_ca("another CA", now)
    stranger = make_client_certificate(ca, "kube-apiserver", now)
    context = shared.context_of(stranger, tmp_path)

    def is_let_in() -> bool:
        try:
            return shared.post_review(token, context=context).status == 201
        except OSError:
            return False

    token = shared.sign()
    assert not is_let_in()
    file = shared.data_dir / "tls" / "ca.crt"
    own = file.read_bytes()
    replace_file(file, own + ca.certificate, 0o644)
    soon(is_let_in)
    assert accepted(shared, token)
    replace_file(file, own, 0o644)
    soon(lambda: not is_let_in())


def test_revocation_list(server: RunningServer) -> None:
    token = server.sign()
    assert not cut_off(server, token)
    revoked = read_pair(server.data_dir / "tls", "kube-apiserver").certificate
    (server.data_dir / "tls" / "ca.crl").write_bytes(revocation_list(server.ca, [revoked]))
    soon(lambda: cut_off(server, token))


def cut_off(server: RunningServer, token: str) -> bool:
    """Return whether the API server's certificate is no longer accepted."""
    try:
        return server.post_review(token).status != 201
    except (OSError, http.client.RemoteDisconnected):
        return True


def test_a_revocation_list_that_is_not_valid_yet_is_taken_once_it_is(
    server: RunningServer,
) -> None:
    token = server.sign()
    revoked = read_pair(server.data_dir / "tls", "kube-apiserver").certificate
    start = datetime.now(UTC) + timedelta(seconds=5)
    replace_file(
        server.data_dir / "tls" / "ca.crl", revocation_list(server.ca, [revoked], start), 0o644
    )
    soon(lambda: "ca.crl is valid from" in readyz(server))
    # Every worker uses it, without any change of a file.
    soon(lambda: all(cut_off(server, token) for _ in range(10)))
    assert len(problems_logged(server)) <= 2, "once a worker, though each tried again and again"


def problems_logged(server: RunningServer) -> list[str]:
    """Return what the log says about what could not be loaded."""
    messages = [record["message"] for record in records_of(server.log())]
    return [message for message in messages if "was not loaded again: " in message]


def test_chmod_fixes_a_key_that_others_can_read(server: RunningServer) -> None:
    names = [HOST, "localhost"]
    pair = make_server_certificate(server.ca, "leeway", names, datetime.now(UTC))
    folder, before = server.data_dir / "tls", certificate_of(server)
    replace_file(folder / "server.key", pair.private_key, 0o644)
    replace_file(folder / "server.crt", pair.certificate, 0o644)
    hears_it_twice(server, "tls")
    failing = 'leeway_reload_failing{what="tls"}'
    soon(lambda: metric(server, failing) == 1)
    assert f"run `chmod 600 {folder / 'server.key'}`" in readyz(server)
    assert certificate_of(server) == before
    (folder / "server.key").chmod(0o600)
    new = ssl.PEM_cert_to_DER_cert(pair.certificate.decode("ascii"))
    soon(lambda: all(certificate_of(server) == new for _ in range(10)))
    soon(lambda: metric(server, failing) == 0)
    assert "[!]" not in readyz(server)


def readyz(server: RunningServer) -> str:
    answer = server.request("GET", "/readyz?verbose", context=server.context(""))
    assert answer.status == 200
    return answer.body.decode()


def metric(server: RunningServer, name: str) -> float:
    text = server.request("GET", "/metrics", context=server.context("root")).body.decode()
    found = re.search(rf"(?m)^{re.escape(name)} (\S+)$", text)
    return float(found[1]) if found else -1


BROKEN = [
    pytest.param("leeway.yaml", "configuration", "leeway: notBefore is 10m", id="configuration"),
    pytest.param("tls/server.crt", "tls", "server.crt", id="certificate"),
    pytest.param("keys/schedule.json", "signing-keys", "is not a key schedule", id="schedule"),
]


@pytest.mark.parametrize(("name", "warning", "words"), BROKEN)
def test_broken_files_change_nothing(
    shared: RunningServer, name: str, warning: str, words: str
) -> None:
    path = shared.data_dir / name
    good = path.read_bytes()
    token, certificate = shared.sign(), certificate_of(shared)
    bad = b"leeway: {notBefore: 10m}\n" if name == "leeway.yaml" else b"{"
    replace_file(path, (good + bad) if name == "leeway.yaml" else bad, 0o600)
    with connections_to_every_worker(shared) as connections:

        def texts() -> list[str]:
            paths = "/readyz?verbose"
            return [request_on(c, "GET", paths).body.decode() for c in connections]

        soon(lambda: all(f"[!]{warning} warning: " in text for text in texts()))
        assert words in texts()[0]
        assert "stay" in texts()[0]
        assert accepted(shared, token)
        assert certificate_of(shared) == certificate
        soon(lambda: metric(shared, f'leeway_reload_failing{{what="{warning}"}}') == 1)
        replace_file(path, good, 0o600)
        soon(lambda: not any("[!]" in text for text in texts()))
    soon(lambda: metric(shared, f'leeway_reload_failing{{what="{warning}"}}') == 0)


# The last test with the shared server, whose configuration it leaves changed.
def test_hangup(shared: RunningServer) -> None:
    workers = set(shared.both_workers())
    set_leeway(shared, 200)
    token = shared.sign(ahead=190)
    shared.process.send_signal(signal.SIGHUP)
    soon(lambda: accepted(shared, token))
    assert set(shared.workers()) == workers
    assert shared.process.poll() is None


def test_settings_that_need_a_restart_are_logged(server: RunningServer) -> None:
    edit(
        server,
        lambda text: re.sub(r"(?m)^server: .*$", f"server: {{bind: '{HOST}:{free_port()}'}}", text),
    )
    soon(lambda: "[!]configuration warning: server.bind will change" in readyz(server))
    # Nothing has changed since, but for one worker in the place of another.
    server.process.send_signal(signal.SIGHUP)
    victim, other = server.both_workers()
    os.kill(victim, signal.SIGKILL)
    soon(lambda: server.has_replaced(victim))
    assert other in server.workers()
    with connections_to_every_worker(server) as connections:
        for connection in connections:
            text = request_on(connection, "GET", "/readyz?verbose").body.decode()
            assert "[!]configuration warning: server.bind will change" in text
    assert metric(server, 'leeway_reload_failing{what="configuration"}') == 0
    assert accepted(server, server.sign())


@pytest.mark.parametrize(
    ("name", "what", "old", "new"),
    [
        pytest.param("tls/server.crt", "tls", b"-----BEGIN", b"{", id="certificate"),
        pytest.param(
            "leeway.yaml",
            "configuration",
            b"issuer: https://leeway.default.svc",
            rb'issuer: "https://\ud800.example"',
            id="half-a-surrogate-pair",
        ),
    ],
)
def test_a_worker_that_cannot_start_stops_no_other(
    server: RunningServer, name: str, what: str, old: bytes, new: bytes
) -> None:
    path, token = server.data_dir / name, server.sign()
    good = path.read_bytes()
    assert old in good
    replace_file(path, good.replace(old, new), 0o644)
    hears_it_twice(server, what)
    soon(lambda: metric(server, f'leeway_reload_failing{{what="{what}"}}') == 1)
    keeps_serving_without_one(server, token, lambda: replace_file(path, good, 0o644))


def verbose(connection: http.client.HTTPSConnection) -> str:
    return request_on(connection, "GET", "/readyz?verbose").body.decode()


def hears_it_twice(server: RunningServer, what: str) -> None:
    """Wait until both workers have logged, in one line each, what cannot be loaded."""
    with connections_to_every_worker(server) as connections:
        line = f"[!]{what} warning: "
        soon(lambda: all(verbose(c).count(line) == 1 for c in connections))
    soon(lambda: len(problems_logged(server)) == 2)
    assert all(message.isprintable() for message in problems_logged(server))


def keeps_serving_without_one(server: RunningServer, token: str, fix: Callable[[], None]) -> None:
    """Kill a worker, and fix what prevents its replacement."""
    victim, other = server.both_workers()
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        assert accepted(server, token)
        time.sleep(0.1)
    assert other in server.workers()
    assert "cannot start, another one will try" in server.log()
    fix()
    soon(lambda: server.has_replaced(victim))
    with connections_to_every_worker(server) as connections:
        soon(lambda: all(request_on(c, "GET", "/readyz").status == 200 for c in connections))
        soon(lambda: not any("[!]" in verbose(c) for c in connections))


@pytest.fixture
def faulty_server(tmp_path: Path) -> Iterator[RunningServer]:
    program: list[str | Path] = [sys.executable, Path(__file__).with_name("faulty_server.py")]
    environment = {PLANTED: str(tmp_path / "planted")}
    running = start_server(tmp_path, algorithm="ES256", program=program, environment=environment)
    with connections_to_every_worker(running):
        pass
    yield running
    running.stop(expected_trouble=TROUBLE)


@pytest.mark.parametrize(
    ("what", "change", "start"),
    [
        ("tls", renew_certificate, "TLS was"),
        ("configuration", lambda server: set_leeway(server, 200), "the configuration was"),
    ],
    ids=["tls", "configuration"],
)
def test_an_unexpected_error_stops_no_other_part(
    faulty_server: RunningServer,
    tmp_path: Path,
    what: str,
    change: Callable[[RunningServer], object],
    start: str,
) -> None:
    token, planted = faulty_server.sign(), tmp_path / "planted"
    planted.write_text(what)
    change(faulty_server)
    hears_it_twice(faulty_server, what)
    assert "an internal error occurred (ValueError); it is in the log" in readyz(faulty_server)
    keeps_serving_without_one(faulty_server, token, planted.unlink)
    for text in (f"{start} not loaded again", "This worker cannot start"):
        found = [r for r in records_of(faulty_server.log()) if r["message"].startswith(text)]
        assert found
        assert all("crash_where_planted" in record["traceback"] for record in found)
