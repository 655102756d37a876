"""``leeway signer`` as kube-apiserver uses it: tokens, rotation, refusals, clocks, signals."""

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.external_jwt.api_server import ALGORITHMS, ApiServer
from tests.external_jwt.claims import (
    ISSUER,
    TOO_LONG,
    JSONObject,
    Limits,
    Mutator,
    account_claims,
    as_go,
    b64,
    bound_claims,
    forbidden,
    pod_claims,
)
from tests.external_jwt.client import SERVICE, SignerClient
from tests.external_jwt.http2 import PREFACE, call_without_reading
from tests.external_jwt.messages import Signed
from tests.secrets_made import shown, token_made
from tests.support import jti_of, unb64, wait_until

from .harness import (
    HOST,
    LEEWAY,
    REVIEWS,
    RunningServer,
    free_port,
    records_of,
    request_on,
    review_of,
    start_server,
    trouble_in,
)
from .signer_process import (
    REFUSED,
    RunningSigner,
    add_signer,
    leeway,
    make_data_dir,
    signer,
    spawn_signer,
    start_signer,
)

TOKENS = 1000
ROTATIONS = 3
SEED = int(os.environ.get("TEST_FUZZ_SEED", "0")) or int.from_bytes(os.urandom(4))
MUTATIONS = int(os.environ.get("TEST_SIGNER_MUTATIONS", "300"))
HEADERS = {"Content-Type": "application/json"}
CALLS, THREADS = 400, 16
KILLS = int(os.environ.get("TEST_KILLS", "3"))
INVALID = grpc.StatusCode.INVALID_ARGUMENT
REASONS = {
    "TooLarge", "Malformed", "OtherIssuer", "SubjectMismatch", "LifetimeTooLong", "IssuedInFuture",
    "IssuedInPast",
}  # fmt: skip
KINDS: tuple[Callable[[float], JSONObject], ...] = (
    account_claims,
    pod_claims,
    partial(bound_claims, kind="secret"),
    partial(bound_claims, kind="node"),
)


def create(api_server: ApiServer, claims: JSONObject) -> str:
    token = api_server.create_token(as_go(claims))
    token_made(token)
    return token


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSigner]:
    """Run one signer for the tests that do not stop it."""
    data_dir = make_data_dir(tmp_path_factory.mktemp("signer"))
    expected = '"event": "(sign|over-limit|left-out)"'
    with signer(data_dir, expected_trouble=expected) as found:
        yield found


@contextmanager
def serving(folder: Path) -> Iterator[RunningServer]:
    """Run a server whose data directory a signer shares."""
    server = start_server(folder, add_signer)
    try:
        yield server
        server.stop()
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tokens_of_every_kind(tmp_path: Path, algorithm: str) -> None:
    data_dir = make_data_dir(tmp_path, algorithm)
    with signer(data_dir) as running, running.client() as client:
        api_server = ApiServer(client, max_expiration=86_400)
        api_server.start()
        for make in KINDS:
            create(api_server, make(time.time()))
        audiences = ["https://example.com/?a=1&b=<2>", "Ünïcode"]
        create(api_server, account_claims(time.time(), aud=audiences))
        api_server.refresh()
        assert api_server.changes == 1
        assert len(running.signed()) == len(KINDS) + 1


def test_1000_tokens_while_keys_rotate_three_times(tmp_path: Path) -> None:
    """Steps are forced: a schedule would take hours, of which no process here may know.

    kube-apiserver keeps to the refresh hint of 1 s. A key signs once it has fetched it.
    """
    tokens: list[str] = []
    with (
        serving(tmp_path) as server,
        signer(server.data_dir, ("--refresh-hint", "1s")) as running,
        running.client() as client,
        server.client() as reviews,
    ):
        api_server = ApiServer(client)
        api_server.start()
        due = time.monotonic() + api_server.keys.refresh_hint

        def sign_one() -> None:
            nonlocal due
            if time.monotonic() >= due:
                api_server.refresh()
                due = time.monotonic() + api_server.keys.refresh_hint
            # Verified with the keys that are fetched by then.
            tokens.append(create(api_server, KINDS[len(tokens) % len(KINDS)](time.time())))
            body = json.dumps(review_of(tokens[-1])).encode()
            status = request_on(reviews, "POST", REVIEWS, body, HEADERS).json["status"]
            assert status["authenticated"], status

        def sign_until_changed(value: Callable[[], object]) -> None:
            """Sign at least 100 tokens."""
            before, deadline, enough = value(), time.monotonic() + 30, len(tokens) + 100
            while len(tokens) < enough or value() == before:
                assert time.monotonic() < deadline
                sign_one()

        sign_one()
        for _ in range(ROTATIONS):
            leeway(server.data_dir, "keys", "rotate")
            sign_until_changed(lambda: len(api_server.keys.keys))
            leeway(server.data_dir, "keys", "rotate", "--force")
            sign_until_changed(lambda: kid_of(tokens[-1]))
        while len(tokens) < TOKENS:
            sign_one()
        for token in tokens:
            api_server.verify(token)
        kids = {jti_of(token): kid_of(token) for token in tokens}
        assert {record["jti"]: record["kid"] for record in running.signed()} == kids
        print(f"{len(tokens)} tokens, {api_server.fetched} fetches, {api_server.changes} changes")
        assert len(set(kids.values())) == ROTATIONS + 1
        assert len(kids) == len(tokens)
        # One change for each key that was published.
        assert api_server.changes == ROTATIONS + 1


def kid_of(token: str) -> str:
    kid: str = json.loads(unb64(token.partition(".")[0]))["kid"]
    return kid


# Refusals -----------------------------------------------------------------------------------


def sign_or_not(client: SignerClient, text: str) -> Signed | None:
    """Return the answer, or None where the claims are refused without a reason."""
    try:
        return client.sign(text)
    except grpc.RpcError as error:
        found = error
    assert (found.code(), found.details()) == (INVALID, REFUSED), text
    return None


def refused(client: SignerClient, text: str) -> None:
    """Assert that claims are not signed, and that the error does not say why."""
    with pytest.raises(grpc.RpcError) as caught:
        client.sign(text)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == REFUSED
    assert not caught.value.trailing_metadata()


def changed(**changes: object) -> str:
    return b64(as_go(account_claims(time.time(), **changes)))


def appended(text: str) -> str:
    """Return good claims with members written after the others."""
    return b64(as_go(account_claims(time.time()))[:-1] + f",{text}}}".encode())


REFUSALS: dict[str, tuple[Callable[[], str], str]] = {
    "another issuer": (lambda: changed(iss="https://other.example"), "OtherIssuer"),
    "an issuer like ours": (lambda: changed(iss=ISSUER + "/"), "OtherIssuer"),
    "sub contradicts": (lambda: changed(sub="system:serviceaccount:a:b"), "SubjectMismatch"),
    "a duplicate": (lambda: appended('"iss":"https://leeway.default.svc"'), "Malformed"),
    "an escaped duplicate": (lambda: appended('"\\u0073ub":"x"'), "Malformed"),
    "other capitals": (lambda: appended('"ISS":"https://other.example"'), "Malformed"),
    "a long s": (lambda: appended('"\u017fub":"system:admin"'), "Malformed"),
    "no aud": (lambda: changed(aud=None), "Malformed"),
    "an empty aud": (lambda: changed(aud=[]), "Malformed"),
    "exp too far": (lambda: changed(exp=int(time.time()) + 90_000), "LifetimeTooLong"),
    "no exp": (lambda: changed(exp=None), "Malformed"),
    "iat ahead": (lambda: b64(as_go(account_claims(time.time() + 90))), "IssuedInFuture"),
    "iat behind": (lambda: b64(as_go(account_claims(time.time() - 90))), "IssuedInPast"),
    "1 MB": (lambda: b64(b" " * TOO_LONG), "TooLarge"),
    "not JSON": (lambda: b64(b"{"), "Malformed"),
    "an array": (lambda: b64(b"[]"), "Malformed"),
    "padded": (lambda: changed(jti="x" * 34) + "=", "Malformed"),
    "a line break": (lambda: changed() + "\n", "Malformed"),
    "not ASCII": (lambda: changed() + "é", "Malformed"),
    "nothing": (lambda: "", "Malformed"),
}


@pytest.mark.bad_input(71)
@pytest.mark.parametrize(("make", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refused_claims(running: RunningSigner, make: Callable[[], str], reason: str) -> None:
    signed, before = len(running.signed()), len(running.refusals())
    with running.client() as client:
        text = make()
        refused(client, text)
        wait_until(lambda: len(running.refusals()) > before)
        # The next caller is not affected.
        create(ApiServer(client), account_claims(time.time()))
    (record,) = running.refusals()[before:]
    assert record["reason"] == reason
    assert record["level"] == "warning"
    assert len(json.dumps(record)) < 1000
    if reason in ("IssuedInFuture", "IssuedInPast"):
        assert abs(record["skewSeconds"]) == pytest.approx(90, abs=2)
    assert len(running.signed()) == signed + 1


@pytest.mark.bad_input(71)
def test_mutated_claims(tmp_path: Path) -> None:
    """Through the socket; tests/fuzz has many more of them in one process."""
    print(f"TEST_FUZZ_SEED={SEED}")
    mutator = Mutator(SEED, time.time())
    expected = '"event": "(sign|left-out)"'
    with (
        signer(make_data_dir(tmp_path, "ES256"), expected_trouble=expected) as running,
        running.client() as client,
    ):
        api_server = ApiServer(client)
        api_server.start()
        counts: Counter[str] = Counter()
        for _ in range(MUTATIONS):
            text = mutator.request()
            answer = sign_or_not(client, text)
            if answer is None:
                counts["refused"] += 1
                continue
            token_made(api_server.accept(text, answer))
            assert forbidden(text, time.time(), Limits()) == "", text
            counts["signed"] += 1
        print(dict(counts))
        assert counts["signed"] > MUTATIONS // 20
        wait_until(lambda: logged_refusals(running) == counts["refused"])
        assert len(running.signed()) == counts["signed"]
        assert all(record["reason"] in REASONS for record in running.refusals())


def logged_refusals(running: RunningSigner) -> int:
    """Return how many refusals are logged, with those that a flood leaves out."""
    left_out: list[int] = [r["count"] for r in running.records() if r.get("event") == "left-out"]
    return len(running.refusals()) + sum(left_out)


# Clocks -------------------------------------------------------------------------------------


def skew_of(server: RunningServer) -> tuple[int, JSONObject, JSONObject | None]:
    """Return the exit code of `leeway skew`, its verdict, and kube-apiserver's clock."""
    command = [LEEWAY, "skew", "--data-dir", str(server.data_dir), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    shown("what `leeway skew` printed", done.stdout + done.stderr)
    status = json.loads(done.stdout)["status"]
    clocks = {clock["node"]: clock for clock in status["clocks"]}
    return done.returncode, status["verdict"], clocks.get("kube-apiserver")


@pytest.mark.bad_input(71)
def test_a_storm_from_a_clock_that_is_90_s_fast(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        signer(server.data_dir, expected_trouble='"event": "(sign|left-out)"') as running,
        running.client() as client,
    ):
        for _ in range(10):
            refused(client, b64(as_go(pod_claims(time.time() + 90))))
        wait_until(lambda: (skew_of(server)[2] or {}).get("tokens") == 10)
        code, verdict, clock = skew_of(server)
        assert clock is not None
        assert code == 1
        assert clock["state"] == "Ahead"
        assert clock["aheadSeconds"] == pytest.approx(90, abs=2)
        # It is the only clock that is known.
        assert verdict["kind"] == "Undecided"
        named = re.search(r"kube-apiserver is ahead by (\d+) s", verdict["message"])
        assert named, verdict
        assert int(named[1]) == pytest.approx(90, abs=2)

        calls = [
            client.sign_call.future(b64(as_go(pod_claims(time.time() + 90))), timeout=60)
            for _ in range(1000)
        ]
        outcomes = Counter((call.code(), call.details()) for call in calls)
        assert outcomes == {(INVALID, REFUSED): 1000}
        assert running.signed() == []
        create(ApiServer(client), pod_claims(time.time() + 30))


# Load and slow clients ----------------------------------------------------------------------


@pytest.mark.bad_input(72)
def test_1000_calls_at_once(running: RunningSigner) -> None:
    before = len(running.signed())
    with running.client() as client:
        api_server = ApiServer(client)
        api_server.start()
        texts = [b64(as_go(pod_claims(time.time()))) for _ in range(1000)]
        calls = [client.sign_call.future(text, timeout=60) for text in texts]
        outcomes = Counter(call.code() for call in calls)
        print(dict(outcomes))
        assert set(outcomes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert outcomes[grpc.StatusCode.OK] >= 500
        for text, call in zip(texts, calls, strict=True):
            if call.code() is grpc.StatusCode.OK:
                token_made(api_server.accept(text, call.result()))
        assert len(running.signed()) == before + outcomes[grpc.StatusCode.OK]
        create(api_server, account_claims(time.time()))


def wait_until_same(value: Callable[[], int]) -> int:
    """Wait until a number has not changed for a second, and return it."""
    deadline, last = time.monotonic() + 60, -1
    while (now := value()) != last:
        assert time.monotonic() < deadline
        last = now
        time.sleep(1)
    return now


@pytest.mark.bad_input(72)
def test_calls_past_their_deadline_are_not_signed(running: RunningSigner) -> None:
    before = len(running.signed())
    with running.client() as client:
        create(ApiServer(client), account_claims(time.time()))
        running.process.send_signal(signal.SIGSTOP)
        try:
            texts = [b64(as_go(account_claims(time.time()))) for _ in range(CALLS)]
            calls = [client.sign_call.future(text, timeout=0.5) for text in texts]
            codes = {call.code() for call in calls}
        finally:
            running.process.send_signal(signal.SIGCONT)
        assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
        create(ApiServer(client), account_claims(time.time()))
    # One in each thread may have begun before the signer has read that it was cancelled.
    assert len(running.signed()) <= before + 2 + THREADS


@pytest.mark.bad_input(72)
def test_a_client_that_never_reads(running: RunningSigner) -> None:
    text = b64(as_go(account_claims(time.time())))
    before = len(running.signed())
    with ExitStack() as stack:
        sent = 0
        for _ in range(20):
            connection, number = call_without_reading(running.socket, text)
            stack.enter_context(connection)
            sent += number
        # More than can be open at the same time, so that some are refused.
        assert sent > 1024
        signed = wait_until_same(lambda: len(running.signed()))
        assert signed > before
        with running.client() as client:
            api_server = ApiServer(client)
            api_server.start()
            for _ in range(20):
                create(api_server, account_claims(time.time()))
    assert len(running.signed()) == signed + 20


@pytest.mark.bad_input(72)
@pytest.mark.parametrize(
    "data",
    [b"", PREFACE, PREFACE[:10], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01" * 400],
    ids=["nothing", "only a preface", "half of it", "HTTP/1.1", "TLS"],
)
def test_clients_that_do_not_speak_grpc(running: RunningSigner, data: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(running.socket))
            connection.sendall(data)
        with running.client() as client:
            create(ApiServer(client), account_claims(time.time()))


@pytest.mark.parametrize(
    ("method", "request_bytes"),
    [("Sign", b"\xff"), ("Sign", b"\x08\x01"), ("Sign", b"\x0a\x02\xff\xfe"), ("Sign", b"")],
    ids=["no message", "another type", "not UTF-8", "empty"],
)
def test_messages_that_are_none(running: RunningSigner, method: str, request_bytes: bytes) -> None:
    with running.client() as client, pytest.raises(grpc.RpcError) as caught:
        client.call(f"{SERVICE}/{method}", request_bytes)
    assert (caught.value.code(), caught.value.details()) == (INVALID, REFUSED)


def test_a_message_that_grows_when_it_is_decompressed(running: RunningSigner) -> None:
    with running.client() as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.call(f"{SERVICE}/Sign", bytes(32 * TOO_LONG), grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        create(ApiServer(client), account_claims(time.time()))


def test_unknown_methods(running: RunningSigner) -> None:
    for path in (
        f"{SERVICE}/Other",
        "/v1alpha1.ExternalJWTSigner/Sign",
        "/grpc.health.v1.Health/Check",
    ):
        with running.client() as client, pytest.raises(grpc.RpcError) as caught:
            client.call(path, b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# The socket ---------------------------------------------------------------------------------


@pytest.mark.bad_input(72)
def test_killed_and_started_again(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    first = start_signer(data_dir)
    with first.client() as client:
        api_server = ApiServer(client)
        try:
            api_server.start()
            token = create(api_server, account_claims(time.time()))
        finally:
            first.kill()
        assert first.socket.is_socket()
        # kube-apiserver waits for the connection to come back.
        with signer(data_dir) as second:
            create(api_server, account_claims(time.time()))
            api_server.refresh()
            api_server.verify(token)
            assert api_server.changes == 1
            assert len(second.signed()) == 1
        assert not first.socket.exists()


@pytest.mark.bad_input(72)
def test_killed_under_load(tmp_path: Path) -> None:
    """A kill loses the calls in flight and no other, and each token has its audit line."""
    data_dir = make_data_dir(tmp_path, "ES256")
    running = start_signer(data_dir)
    tokens: list[str] = []
    codes: Counter[grpc.StatusCode] = Counter()
    ended = threading.Event()

    def call_repeatedly(client: SignerClient, api_server: ApiServer) -> None:
        while not ended.is_set():
            try:
                token = create(api_server, account_claims(time.time()))
            except grpc.RpcError as error:
                codes[error.code()] += 1
            else:
                tokens.append(token)

    def wait_for_more() -> None:
        enough = len(tokens) + 50
        wait_until(lambda: len(tokens) >= enough, 60)

    with ExitStack() as stack:
        clients = [stack.enter_context(running.client()) for _ in range(4)]
        servers = [ApiServer(client) for client in clients]
        threads = [
            threading.Thread(target=call_repeatedly, args=pair)
            for pair in zip(clients, servers, strict=True)
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in range(KILLS):
                wait_for_more()
                running.kill()
                running = start_signer(data_dir)
            wait_for_more()
        finally:
            ended.set()
            for thread in threads:
                thread.join()
            running.kill()
    print(f"{len(tokens)} tokens, {dict(codes)}")
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}
    assert codes[grpc.StatusCode.UNAVAILABLE] <= KILLS * len(threads)
    assert [server.changes for server in servers] == [1] * len(servers)
    signed = {r.get("jti") for r in records_of(running.log_file.read_text())}
    assert {jti_of(token) for token in tokens} <= signed


def test_a_restart_is_no_change_of_the_keys(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path, "ES256")
    first = start_signer(data_dir)
    try:
        with first.client() as client:
            api_server = ApiServer(client)
            api_server.start()
            before = kid_of(create(api_server, account_claims(time.time())))
            leeway(data_dir, "keys", "rotate")
            wait_until(lambda: len(client.fetch_keys().keys) == 2)
            leeway(data_dir, "keys", "rotate", "--force")
            wait_until(lambda: kid_of(create(api_server, account_claims(time.time()))) != before)
            api_server.refresh()
            changes = api_server.changes
            first.kill()
            with signer(data_dir):
                api_server.refresh()
                create(api_server, account_claims(time.time()))
                assert api_server.changes == changes
    finally:
        first.kill()


@pytest.mark.bad_input(72)
def test_a_second_signer_on_a_live_socket(running: RunningSigner, tmp_path: Path) -> None:
    log = tmp_path / "second.log"
    process = spawn_signer(running.data_dir, running.socket, log)
    assert process.wait(30) == 3
    text = log.read_text()
    assert f"another process listens on {running.socket}" in text
    assert "Traceback" not in text
    with running.client() as client:
        create(ApiServer(client), account_claims(time.time()))


@pytest.mark.bad_input(72)
def test_of_signers_that_start_together_one_serves(tmp_path: Path) -> None:
    data_dir, path = make_data_dir(tmp_path), tmp_path / "run" / "signer.sock"
    logs = [tmp_path / f"{number}.log" for number in range(4)]
    processes = [spawn_signer(data_dir, path, log) for log in logs]
    try:
        wait_until(lambda: sum(process.poll() is not None for process in processes) == 3, 60)
        with SignerClient(path) as client:
            create(ApiServer(client), account_claims(time.time()))
        assert sorted(process.poll() or 0 for process in processes) == [0, 3, 3, 3]
        serving = next(process for process in processes if process.poll() is None)
        serving.terminate()
        assert serving.wait(40) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def failed_start(data_dir: Path, path: str | Path, code: int) -> str:
    """Return what a signer logs that must not start."""
    log = data_dir.parent / "failed.log"
    process = spawn_signer(data_dir, Path(path), log)
    try:
        assert process.wait(30) == code, log.read_text()
    finally:
        process.kill()
    assert "Traceback" not in log.read_text()
    return log.read_text()


def test_what_is_not_a_socket_is_not_removed(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    path = tmp_path / "run" / "signer.sock"
    path.parent.mkdir(mode=0o750)
    path.write_text("precious")
    assert f"{path} exists and is not a socket" in failed_start(data_dir, path, 3)
    assert path.read_text() == "precious"


def test_a_folder_in_which_others_can_write(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    assert "can write in" in failed_start(data_dir, folder / "signer.sock", 3)


@pytest.mark.parametrize("path", ["@leeway", "signer.sock", "run/../signer.sock"])
def test_paths_that_are_not_allowed(tmp_path: Path, path: str) -> None:
    assert "absolute path of a socket" in failed_start(make_data_dir(tmp_path), path, 2)


def test_modes_of_the_socket_and_its_folder(running: RunningSigner) -> None:
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.socket.parent.stat().st_mode) == 0o750
    assert running.socket.is_socket()


def test_a_group_that_can_connect(tmp_path: Path) -> None:
    group = os.getgid() if os.geteuid() else 12_345
    data_dir = make_data_dir(tmp_path, section=f'signer: {{group: "{group}"}}\n')
    with signer(data_dir) as running, running.client() as client:
        for path, mode in ((running.socket, 0o660), (running.socket.parent, 0o750)):
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert path.stat().st_gid == group
        create(ApiServer(client), account_claims(time.time()))


# Trouble with files -------------------------------------------------------------------------


def test_a_skew_file_that_cannot_be_written(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path, "ES256")
    (data_dir / "signer-skew.json").mkdir()
    expected = "kube-apiserver's clock is not shared"
    with signer(data_dir, expected_trouble=expected) as running, running.client() as client:
        api_server = ApiServer(client)
        create(api_server, account_claims(time.time()))
        wait_until(lambda: expected in running.log())
        create(api_server, account_claims(time.time()))
        # Written each second, and reported once.
        time.sleep(2.5)
        create(api_server, account_claims(time.time()))
        assert running.log().count(expected) == 1


def test_a_full_disk_under_the_log(tmp_path: Path) -> None:
    """As with ``leeway serve``, a log that cannot be written is no reason to stop."""
    data_dir, path = make_data_dir(tmp_path, "ES256"), tmp_path / "run" / "signer.sock"
    process = spawn_signer(data_dir, path, Path("/dev/full"))
    try:
        with SignerClient(path) as client:
            api_server = ApiServer(client)
            api_server.start()
            for _ in range(3):
                create(api_server, account_claims(time.time()))
            refused(client, changed(iss="https://other.example"))
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


# Signals ------------------------------------------------------------------------------------


def test_sigterm_loses_no_token(tmp_path: Path) -> None:
    """Every token that was signed, and so is in the audit log, reaches its caller."""
    running = start_signer(make_data_dir(tmp_path))
    try:
        outcomes: Counter[grpc.StatusCode] = Counter()
        lock = threading.Lock()

        def call() -> None:
            with running.client() as client:
                while True:
                    text = b64(as_go(account_claims(time.time())))
                    done = client.sign_call.future(text, timeout=30)
                    with lock:
                        outcomes[done.code()] += 1
                    if done.code() is not grpc.StatusCode.OK:
                        return

        threads = [threading.Thread(target=call) for _ in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: outcomes[grpc.StatusCode.OK] > 200)
        assert running.terminate() == 0
        for thread in threads:
            thread.join()
    finally:
        running.kill()
    print(dict(outcomes))
    # gRPC cancels the calls that have arrived and not begun; nothing is signed for them.
    refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert set(outcomes) <= {grpc.StatusCode.OK} | refused
    assert sum(outcomes[code] for code in refused) == 16
    assert len(running.signed()) == outcomes[grpc.StatusCode.OK]
    assert trouble_in(running.log()) == []
    assert not running.socket.exists()


def test_sighup_reloads_the_configuration(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    file = data_dir / "leeway.yaml"
    good = file.read_text()
    with (
        signer(data_dir, expected_trouble='not loaded again|"event": "sign"') as running,
        running.client() as client,
    ):
        assert client.max_expiration() == 86_400
        file.write_text(good + "tokens: {maxExpiration: 2h}\n")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: client.max_expiration() == 7200)
        refused(client, changed(exp=int(time.time()) + 7300))
        # A broken file changes nothing.
        file.write_text(good + "tokens: {maxExpiration: never}\n")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not loaded again" in running.log())
        assert client.max_expiration() == 7200
        create(ApiServer(client), account_claims(time.time()))
        file.write_text(good)
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: client.max_expiration() == 86_400)


# Metrics ------------------------------------------------------------------------------------


def test_metrics_and_health(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path, "ES256")
    port = free_port()
    arguments = ("--metrics-bind", f"{HOST}:{port}")
    with signer(data_dir, arguments, '"event": "sign"') as running, running.client() as client:
        api_server = ApiServer(client)
        api_server.start()
        for _ in range(5):
            create(api_server, pod_claims(time.time()))
        for _ in range(3):
            refused(client, changed(iss="https://other.example"))
        assert get(port, "/livez")[0] == 200
        status, text = get(port, "/metrics")
        assert status == 200
        counted = dict(re.findall(r"(?m)^leeway_signer_requests_total(\{.*\}) (.*)$", text))
        assert {labels: float(count) for labels, count in counted.items() if float(count)} == {
            '{method="Sign",result="ok"}': 5,
            '{method="Sign",result="OtherIssuer"}': 3,
            '{method="FetchKeys",result="ok"}': 1,
            '{method="Metadata",result="ok"}': 1,
        }
        assert re.search(r"(?m)^leeway_signer_duration_seconds_count 8\.0$", text)
        for name in (
            "loofah",
            "argo-run",
            "other.example",
            kid_of(create(api_server, pod_claims(time.time()))),
        ):
            assert name not in text
        assert get(port, "/metrics/other")[0] == 404


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    with closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    shown(f"the signer's {path}", body)
    return answer.status, body
