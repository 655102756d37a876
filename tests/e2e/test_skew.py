"""Bursts of tokens from ten nodes, and whose clock a real server reports as wrong."""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from keys.jws import SigningKey, sign
from tests.support import JSONObject
from webhook.assembly import keyring_of
from webhook.token.claims import ObjectReference, build_projected

from .harness import (
    AUDIENCE,
    LEEWAY,
    REVIEWS,
    Answer,
    RunningServer,
    request_on,
    review_of,
    start_server,
)

SKEW = "/apis/leeway.dev/v1/skew"
ISSUER = "https://leeway.default.svc"
HEADERS = {"Content-Type": "application/json"}
NODES = tuple(f"node-{number}" for number in range(10))
CONNECTIONS = 8
# A worker records what it has seen each second; a busy machine may take longer.
WRITTEN_SECONDS = 20.0
SERIES = ("leeway_token_skew_seconds", "leeway_accepted_by_leeway_total", "leeway_tokenreviews")


@dataclass(frozen=True)
class Signer:
    """Signs tokens as an API server does whose clock is ``ahead``."""

    key: SigningKey

    @classmethod
    def of(cls, server: RunningServer) -> "Signer":
        return cls(keyring_of(server.data_dir).signing_key())

    def token(self, node: str, ahead: float, name: str = "loofah") -> str:
        _, payload = build_projected(
            issuer=ISSUER,
            namespace="argo-run",
            service_account=ObjectReference(name, "u"),
            audiences=(AUDIENCE,),
            now=time.time() + ahead,
            expiration_seconds=3600,
            warn_after_seconds=None,
            pod=ObjectReference("p", "u"),
            node=ObjectReference(node, "u") if node else None,
        )
        return sign(payload, self.key)


def storm(
    server: RunningServer, ahead: Callable[[str], float], rounds: int = 100
) -> dict[str, int]:
    """Let each node use that many new tokens; return how many of each were accepted."""
    signer = Signer.of(server)
    accepted = dict.fromkeys(NODES, 0)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(CONNECTIONS)]
        for number in range(rounds * len(NODES)):
            node = NODES[number % len(NODES)]
            token = signer.token(node, ahead(node))
            server.tokens.append(token)
            body = json.dumps(review_of(token)).encode()
            answer = request_on(clients[number % CONNECTIONS], "POST", REVIEWS, body, HEADERS)
            assert answer.status == 201
            accepted[node] += answer.json["status"]["authenticated"]
    wait_until_known(server, rounds * len(NODES))
    return accepted


def wait_until_known(server: RunningServer, tokens: int) -> None:
    """Wait until all workers have recorded that many tokens."""
    deadline = time.monotonic() + WRITTEN_SECONDS
    known = -1
    while known != tokens:
        assert time.monotonic() < deadline, f"{known} of {tokens} tokens are known"
        time.sleep(0.1)
        clocks = get_skew(server, server.context("root")).json["status"]["clocks"]
        known = sum(clock["tokens"] for clock in clocks if not clock["node"])


def leeway_skew(server: RunningServer, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [LEEWAY, "skew", "--data-dir", server.data_dir, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def report(server: RunningServer) -> tuple[int, JSONObject, dict[str, JSONObject]]:
    """Return the exit code, the verdict, and the clocks by node, the issuer by the empty name."""
    code, text = leeway_skew(server, "-o", "json")
    status = json.loads(text)["status"]
    return code, status["verdict"], {clock["node"]: clock for clock in status["clocks"]}


def metrics(server: RunningServer) -> dict[str, float]:
    text = server.request("GET", "/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith(SERIES)]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def series_of(claim: str) -> str:
    return f'leeway_token_skew_seconds{{claim="{claim}",issuer="{ISSUER}"}}'


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """Run a server that has seen nothing yet."""
    running = start_server(tmp_path, algorithm="ES256")
    try:
        yield running
    finally:
        running.stop()
    assert not [t for t in running.tokens if t.rpartition(".")[2][:40] in running.log()]


def one_fast_one_less(node: str) -> float:
    return {"node-3": 90.0, "node-7": 45.0}.get(node, 0.0)


def test_ten_nodes_one_90_s_fast_one_45_s(own: RunningServer) -> None:
    assert leeway_skew(own)[0] == 0
    accepted = storm(own, one_fast_one_less)
    # The leeway is 60 s: what it refuses counts all the same.
    assert accepted == dict.fromkeys(NODES, 100) | {"node-3": 0}
    code, verdict, clocks = report(own)
    assert code == 1
    assert clocks.keys() == {"", *NODES}
    for node in NODES:
        assert clocks[node]["aheadSeconds"] == pytest.approx(one_fast_one_less(node), abs=2)
        assert clocks[node]["tokens"] == 100
    states = {node: clocks[node]["state"] for node in NODES}
    assert states == dict.fromkeys(NODES, "InStep") | {"node-3": "Ahead", "node-7": "Ahead"}
    assert verdict["kind"] == "SignerClocks"
    named = re.findall(r"node (\S+) is ahead by (\d+) s", verdict["message"])
    assert [name for name, _ in named] == ["node-3", "node-7"]
    assert [int(seconds) for _, seconds in named] == pytest.approx([90, 45], abs=2)

    code, text = leeway_skew(own)
    assert code == 1
    (row,) = [line for line in text.splitlines() if " node-3 " in line and "|" in line]
    assert re.search(r"\+(8[89]|9[0-2])\.\d s  ahead +100  \|#{20,}$", row), row
    assert max(len(line) for line in text.splitlines()) <= 100

    found = metrics(own)
    assert found[series_of("iat")] == pytest.approx(90, abs=2)
    assert found[series_of("nbf")] == pytest.approx(90, abs=2)
    assert found['leeway_accepted_by_leeway_total{claim="iat"}'] == 100
    assert found['leeway_accepted_by_leeway_total{claim="nbf"}'] == 100
    assert found['leeway_accepted_by_leeway_total{claim="exp"}'] == 0
    assert found['leeway_tokenreviews_total{reason="",result="accepted"}'] == 900
    assert found['leeway_tokenreviews_total{reason="NotYetValid",result="refused"}'] == 100


@pytest.mark.parametrize(("ahead", "words"), [(90.0, "is behind"), (-90.0, "looks ahead")])
def test_all_nodes_off_by_the_same_time(own: RunningServer, ahead: float, words: str) -> None:
    # To the server this looks like its own clock being wrong.
    storm(own, lambda _: ahead, rounds=20)
    code, verdict, _ = report(own)
    assert (code, verdict["kind"]) == (1, "ServerClock")
    assert verdict["serverAheadSeconds"] == pytest.approx(-ahead, abs=2)
    assert f"this server's clock {words} by " in verdict["message"]
    assert "10 of 10 nodes" in verdict["message"]


def faketime_library() -> str:
    """Return libfaketime, which Debian has in the package faketime."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found or shutil.which("faketime") is None:
        pytest.skip("libfaketime is not here; install the package faketime")
    return str(found[0])


def assert_names_the_server(server: RunningServer, ahead: float) -> None:
    words = "looks ahead" if ahead > 0 else "is behind"
    storm(server, lambda _: 0.0, rounds=20)
    code, verdict, _ = report(server)
    assert (code, verdict["kind"]) == (1, "ServerClock")
    assert verdict["serverAheadSeconds"] == pytest.approx(ahead, abs=2)
    assert f"this server's clock {words} by " in verdict["message"]


@pytest.mark.parametrize("ahead", [-90, 90])
def test_the_clock_of_the_server_itself(tmp_path: Path, ahead: int) -> None:
    faked = {"LD_PRELOAD": faketime_library(), "FAKETIME": f"{ahead:+}"}
    server = start_server(tmp_path, algorithm="ES256", environment=faked)
    try:
        assert_names_the_server(server, ahead)
    finally:
        server.stop()


# Python's clock, off by what is in a file. Unlike libfaketime it can be set while a server sleeps.
SITE = """\
import os, time
right = time.time
def time_with_offset():
    with open(os.environ["OFFSET_FILE"]) as file:
        return right() + float(file.read())
time.time = time_with_offset
"""


@pytest.mark.parametrize("ahead", [-90, 90])
def test_the_clock_of_the_server_is_corrected(tmp_path: Path, ahead: int) -> None:
    file, site = tmp_path / "offset", tmp_path / "site"
    file.write_text(str(ahead))
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    environment = {"PYTHONPATH": str(site), "OFFSET_FILE": str(file)}
    server = start_server(tmp_path, algorithm="ES256", environment=environment)
    try:
        assert_names_the_server(server, ahead)
        # Earlier estimates are no longer valid.
        (tmp_path / "right").write_text("0")
        (tmp_path / "right").replace(file)
        wait_until_known(server, 0)
        assert report(server)[1]["kind"] == "NoTokens"
        # What a clock that was ahead has seen counts for nothing at once, and both workers look
        # each second whether theirs was set.
        time.sleep(3)
        storm(server, one_fast_one_less, rounds=20)
        code, verdict, clocks = report(server)
        assert (code, verdict["kind"]) == (1, "SignerClocks")
        assert clocks["node-3"]["aheadSeconds"] == pytest.approx(90, abs=2)
    finally:
        server.stop(expected_trouble="the clock has jumped")


def test_a_killed_worker_loses_no_estimates(tmp_path: Path) -> None:
    server = start_server(tmp_path, algorithm="ES256")
    try:
        storm(server, one_fast_one_less, rounds=20)
        before = report(server)[2]
        workers = server.both_workers()
        os.kill(workers[0], signal.SIGKILL)
        deadline = time.monotonic() + WRITTEN_SECONDS
        while Path(f"/proc/{workers[0]}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert report(server)[2] == before
    finally:
        # Not stop(): that a worker was killed is in the log, as it should be.
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)


def test_series_and_nodes_are_bounded(own: RunningServer) -> None:
    storm(own, lambda _: 0.0, rounds=1)
    before = metrics(own).keys()
    signer = Signer.of(own)
    with ExitStack() as stack:
        clients = [stack.enter_context(own.client()) for _ in range(CONNECTIONS)]
        for number in range(4_000):
            token = signer.token(f"crowd-{number}", 0.0, f"account-{number}")
            body = json.dumps(review_of(token)).encode()
            answer = request_on(clients[number % CONNECTIONS], "POST", REVIEWS, body, HEADERS)
            assert answer.json["status"]["authenticated"]
    wait_until_known(own, 4_010)
    found = metrics(own)
    assert found.keys() == before
    assert found['leeway_tokenreviews_total{reason="",result="accepted"}'] == 4_010
    text = own.request("GET", "/metrics").body.decode()
    assert "crowd-" not in text
    assert "account-" not in text
    _, _, clocks = report(own)
    assert len(clocks) <= 1 + 2 * 1000, "1,000 nodes for each worker"
    assert clocks[""]["tokens"] == 4_010


# The route ----------------------------------------------------------------------------------


def get_skew(server: RunningServer, context: ssl.SSLContext | None = None) -> Answer:
    return server.request("GET", SKEW, context=context)


def test_callers_that_may_read_the_report(server: RunningServer, nobody: ssl.SSLContext) -> None:
    assert get_skew(server, nobody).status == 401
    refused = get_skew(server, server.context("kube-apiserver"))
    assert refused.status == 403
    assert refused.json["reason"] == "Forbidden"
    assert refused.json["message"].startswith("user 'kube-apiserver' may not read /leeway/skew;")
    answer = get_skew(server, server.context("root"))
    assert answer.status == 200
    assert answer.json["kind"] == "SkewReport"
    assert answer.headers["content-type"] == "application/json"


def test_a_role_allows_it(own: RunningServer) -> None:
    for words in (
        "role add watcher",
        "role grant-permission watcher read /leeway/skew",
        "user grant-role kube-apiserver watcher",
    ):
        subprocess.run(
            [LEEWAY, *words.split(), "--data-dir", own.data_dir], check=True, capture_output=True
        )
    assert get_skew(own, own.context("kube-apiserver")).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods(server: RunningServer, method: str) -> None:
    answer = server.request(method, SKEW, context=server.context("root"))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
