"""Two workers that trust other issuers, by URL and by file, whose keys change meanwhile."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keys.jwk import jwks_document
from keys.jws import SigningKey
from tests.issuer_server import DISCOVERY_PATH, JWKS_PATH, IssuerServer, answer, issuer_server
from tests.support import JSONObject, good_claims, signing_key, token_of, wait_until

from .harness import AUDIENCE, LEEWAY, REVIEWS, RunningServer, request_on, review_of, start_server

OLD, NEW = signing_key("ES256", "old"), signing_key("ES256", "new")
FILE_ISSUER = "https://file.example"
ROUNDS = 12
"""So many connections reach both workers: the chance of missing one is 1 in 2048."""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerServer]:
    with issuer_server(tmp_path_factory.mktemp("issuer")) as served:
        served.publish(OLD)
        yield served


def trusting(issuer: IssuerServer) -> Callable[[Path], None]:
    def prepare(data_dir: Path) -> None:
        (data_dir / "issuer-ca.crt").write_bytes(issuer.ca_file.read_bytes())
        (data_dir / "file-jwks.json").write_bytes(jwks_document([OLD.verification_key]))
        with (data_dir / "leeway.yaml").open("a") as file:
            file.write(
                "trustedIssuers:\n"
                f"- url: {issuer.url}\n"
                f"  keys: {{discoveryURL: '{issuer.discovery_url}', caFile: issuer-ca.crt}}\n"
                "  leeway: {notBefore: 200s}\n"
                f"- url: {FILE_ISSUER}\n"
                f"  keys: {{jwksFile: file-jwks.json}}\n"
            )

    return prepare


@pytest.fixture(scope="module")
def trusting_server(
    issuer: IssuerServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    server = start_server(tmp_path_factory.mktemp("trusting"), trusting(issuer))
    yield server
    if server.process.poll() is None:
        server.process.terminate()
        server.process.wait()


def token(issuer: str, key: SigningKey, ahead: int = 0) -> str:
    now = int(time.time()) + ahead
    return token_of(good_claims(iss=issuer, iat=now, nbf=now, exp=now + 600), key)


def statuses(server: RunningServer, text: str) -> list[JSONObject]:
    """Review a token on enough connections to reach every worker."""
    return [server.post_review(text, [AUDIENCE]).json["status"] for _ in range(ROUNDS)]


def accepted(server: RunningServer, text: str) -> bool:
    (found,) = {bool(status["authenticated"]) for status in statuses(server, text)}
    return found


def test_tokens_of_both_issuers(issuer: IssuerServer, trusting_server: RunningServer) -> None:
    assert accepted(trusting_server, token(issuer.url, OLD))
    assert accepted(trusting_server, token(FILE_ISSUER, OLD))
    assert issuer.asked(DISCOVERY_PATH) == issuer.asked(JWKS_PATH) == 2
    ready = trusting_server.request("GET", "/readyz?verbose").body.decode()
    assert "[+]issuer-keys ok" in ready
    assert "warning" not in ready


def test_an_issuer_has_its_own_leeway(issuer: IssuerServer, trusting_server: RunningServer) -> None:
    assert accepted(trusting_server, token(issuer.url, OLD, 190))
    for status in statuses(trusting_server, token(issuer.url, OLD, 600)):
        assert "(leeway 200s" in status["error"]
    assert not accepted(trusting_server, token(FILE_ISSUER, OLD, 190))


@pytest.mark.bad_input(40)
def test_keys_rotate_while_it_runs(issuer: IssuerServer, trusting_server: RunningServer) -> None:
    new = token(issuer.url, NEW)
    old = token(issuer.url, OLD)
    assert accepted(trusting_server, old)
    issuer.publish(OLD, NEW)
    before = issuer.asked(JWKS_PATH)
    # Each worker has fetched at its start, and fetches again after half a minute.
    deadline = time.monotonic() + 40
    with trusting_server.client() as connection:
        body = json.dumps(review_of(new, [AUDIENCE])).encode()
        headers = {"Content-Type": "application/json"}
        found: list[bool] = []
        while not found or not found[-1]:
            assert time.monotonic() < deadline
            status = request_on(connection, "POST", REVIEWS, body, headers).json["status"]
            found.append(status["authenticated"])
            if not found[-1]:
                assert "no keys found" in status["error"]
                time.sleep(0.5)
    # The other one may have started a little later. From then on it is one request.
    time.sleep(2)
    assert accepted(trusting_server, new)
    assert accepted(trusting_server, old)
    assert issuer.asked(JWKS_PATH) == before + 2
    for number in range(200):
        forged = token_of(good_claims(iss=issuer.url), NEW, {"alg": "ES256", "kid": str(number)})
        assert not trusting_server.post_review(forged).json["status"]["authenticated"]
    assert issuer.asked(JWKS_PATH) == before + 2


def test_files_change_while_it_runs(trusting_server: RunningServer) -> None:
    path = trusting_server.data_dir / "file-jwks.json"
    old, new = token(FILE_ISSUER, OLD), token(FILE_ISSUER, NEW)
    assert accepted(trusting_server, old)
    assert not accepted(trusting_server, new)
    path.write_bytes(jwks_document([NEW.verification_key]))

    def all_accept(text: str) -> bool:
        return all(status["authenticated"] for status in statuses(trusting_server, text))

    wait_until(lambda: all_accept(new))
    wait_until(lambda: not any(s["authenticated"] for s in statuses(trusting_server, old)))
    path.write_bytes(b'{"keys": []}')

    def ready() -> str:
        answer = trusting_server.request("GET", "/readyz?verbose")
        assert answer.status == 200
        return answer.body.decode()

    wait_until(lambda: "[!]issuer-keys warning: the keys of trusted issuer" in ready())
    assert accepted(trusting_server, new)
    metrics = trusting_server.request("GET", "/metrics").body.decode()
    assert f'leeway_issuer_keys_failing{{issuer="{FILE_ISSUER}"}} 1.0' in metrics
    broken = 'leeway_reload_failing{what="issuer-keys"}'
    wait_until(lambda: f"{broken} 1.0" in trusting_server.request("GET", "/metrics").body.decode())
    assert "keys were not read again" in trusting_server.log()
    path.write_bytes(jwks_document([NEW.verification_key]))
    wait_until(lambda: all("warning" not in ready() for _ in range(ROUNDS)))
    metrics = trusting_server.request("GET", "/metrics").body.decode()
    assert f'leeway_issuer_keys_failing{{issuer="{FILE_ISSUER}"}} 0.0' in metrics
    wait_until(lambda: f"{broken} 0.0" in trusting_server.request("GET", "/metrics").body.decode())


AKS = '"aks-cluster-1.hcp.example.azmk8s.io"'
SVC = "kubernetes.default.svc"
OWN = "https://leeway.default.svc"


def any_issuers(data_dir: Path) -> None:
    key = {"kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "pub": "AAAA"}
    for name, keys in (("old", [OLD]), ("new", [NEW]), ("both", [OLD, OLD, NEW])):
        document = json.loads(jwks_document([k.verification_key for k in keys]))
        (data_dir / f"{name}.json").write_text(json.dumps(document))
    document["keys"] += [
        document["keys"][0] | {"kid": ""},
        key,
        document["keys"][0] | {"use": "enc"},
    ]
    (data_dir / "both.json").write_text(json.dumps(document))
    entries = [
        {"url": SVC, "keys": {"jwksFile": "old.json"}},
        {"url": SVC, "keys": {"jwksFile": "new.json"}, "leeway": {"notBefore": "200s"}},
        {"url": AKS, "keys": {"jwksFile": "both.json"}},
        {"url": OWN, "keys": {"jwksFile": "old.json"}},
    ]
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(f"trustedIssuers: {json.dumps(entries)}\n")


@pytest.mark.fault(3, 4, 5)
def test_any_issuer_and_several_entries(tmp_path: Path) -> None:
    server = start_server(tmp_path, any_issuers)
    try:
        for url, keys in ((SVC, (OLD, NEW)), (AKS, (OLD, NEW)), (OWN, (OLD,))):
            for key in keys:
                assert accepted(server, token(url, key))
        assert accepted(server, server.sign())
        assert not accepted(server, token(OWN, NEW))
        assert accepted(server, token(SVC, NEW, 190))
        for status in statuses(server, token(SVC, OLD, 190)):
            assert "(leeway 60s" in status["error"]
        wait_until(lambda: server.log().count("are skipped") == 2)
        assert "key 4 ('pq'): its \\\"kty\\\" is 'AKP'" in server.log()
        done = subprocess.run(
            [LEEWAY, "token", "review", token(SVC, NEW, 190), "--data-dir", server.data_dir],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "allowed 200s" in done.stdout
        assert "ACCEPTED" in done.stdout
        done = subprocess.run(
            [LEEWAY, "doctor", "--data-dir", server.data_dir],
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"keys of issuer {AKS} are skipped" in " ".join(done.stdout.split())
    finally:
        server.stop("are skipped")


def test_the_command_line_fetches_too(issuer: IssuerServer, trusting_server: RunningServer) -> None:
    def review() -> str:
        done = subprocess.run(
            [LEEWAY, "token", "review", "-", "--data-dir", trusting_server.data_dir],
            input=token(issuer.url, OLD),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return " ".join(done.stdout.split())

    text = review()
    assert "ACCEPTED" in text
    assert "allowed 200s" in text
    behave = issuer.behaviours.pop(JWKS_PATH)
    text = review()
    issuer.behaviours[JWKS_PATH] = behave
    assert "REFUSED (UnknownKey): invalid signature, no keys found" in text
    assert "answered 404" in text
    assert "the keys to verify it could not be fetched" in text


def test_an_issuer_that_is_unreachable_at_first(issuer: IssuerServer, tmp_path: Path) -> None:
    issuer.publish(OLD)
    issuer.behaviours[JWKS_PATH] = answer(b"", 503)
    server = start_server(tmp_path, trusting(issuer), readyz=503)
    try:
        assert accepted(server, server.sign())
        assert accepted(server, token(FILE_ISSUER, OLD))
        remote = token(issuer.url, OLD)
        for status in statuses(server, remote):
            assert "could not be fetched: " in status["error"]
            assert "answered 503" in status["error"]
        text = server.request("GET", "/readyz").body.decode()
        assert f"[-]issuer-keys failed: the keys of issuer {issuer.url} could not be" in text
        assert server.request("GET", "/livez").status == 200
        issuer.publish(OLD)
        wait_until(lambda: all(s["authenticated"] for s in statuses(server, remote)))
        wait_until(lambda: server.request("GET", "/readyz").status == 200)
    finally:
        server.process.terminate()
        server.process.wait()
    assert "the next attempt is in 5s" in server.log()


def test_no_token_is_logged(trusting_server: RunningServer) -> None:
    log = trusting_server.log()
    assert not re.search(r"eyJ[-\w]+\.[-\w]+\.[-\w]+", log)
    assert "Traceback" not in log
