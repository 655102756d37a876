"""Contract section 7: every metric exists and counts, whichever worker has counted."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from keys import jws
from keys.folder import load_keyring
from keys.folder_changes import rotate
from tests.support import good_claims
from webhook.assembly import rotation_policy_of
from webhook.config.load import load_configuration

from .auth import as_root, connections_to_every_worker
from .harness import REVIEWS, RunningServer, request_on, review_of, start_server

JSON = {"Content-Type": "application/json"}
MAY_THEY = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
TOKEN = "/api/v1/namespaces/demo/serviceaccounts/default/token"
ISSUER = "https://leeway.default.svc"
REVIEWED = "leeway_tokenreviews_total"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("metrics"), algorithm="ES256")
    yield running
    running.stop()


def scrape(server: RunningServer) -> dict[str, float]:
    # Workers share their counts within 50 ms.
    time.sleep(0.2)
    text = server.request("GET", "/metrics", context=server.context("root")).body.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each counter has grown."""
    changes = {name: value - before.get(name, 0.0) for name, value in after.items()}
    timed = ("leeway_tokenreview_duration", "leeway_signing_key_age", "leeway_token_skew")
    return {n: change for n, change in changes.items() if change and not n.startswith(timed)}


def token_with(server: RunningServer, **claims: object) -> str:
    """Sign claims as they are."""
    key = load_keyring(server.data_dir / "keys").signing_key()
    now = int(time.time())
    times = {"iat": now, "nbf": now, "exp": now + 3600}
    token = jws.sign(json.dumps(good_claims(iss=ISSUER, **times | claims)).encode(), key)
    server.tokens.append(token)
    return token


def review_everywhere(server: RunningServer, token: str) -> int:
    """Review a token once on each of some connections to every worker; return how often."""
    with connections_to_every_worker(server, "kube-apiserver") as connections:
        for connection in connections:
            body = json.dumps(review_of(token)).encode()
            assert request_on(connection, "POST", REVIEWS, body, JSON).status == 201
        return len(connections)


def names_in(server: RunningServer) -> set[str]:
    return {re.split(r"[{ ]", name)[0] for name in scrape(server)}


def test_every_metric_of_the_contract_exists(server: RunningServer, tmp_path: Path) -> None:
    review_everywhere(server, server.sign())
    deadline = time.monotonic() + 10
    while "leeway_token_skew_seconds" not in (names := names_in(server)):
        # Workers record each second what they know about clocks.
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert names >= {
        REVIEWED,
        "leeway_tokenreview_duration_seconds_bucket",
        "leeway_token_skew_seconds",
        "leeway_accepted_by_leeway_total",
        "leeway_permission_checks_total",
        "leeway_auth_revision",
        "leeway_signing_key_age_seconds",
        "leeway_tokens_issued_total",
        "serviceaccount_valid_tokens_total",
        "serviceaccount_stale_tokens_total",
        "serviceaccount_legacy_tokens_total",
    }


def test_accepted(server: RunningServer) -> None:
    before = scrape(server)
    count = review_everywhere(server, server.sign())
    after = scrape(server)
    assert moved(before, after) == {
        f'{REVIEWED}{{reason="",result="accepted"}}': count,
        "serviceaccount_valid_tokens_total": count,
    }
    observed = "leeway_tokenreview_duration_seconds_count"
    assert after[observed] - before[observed] == count


@pytest.mark.parametrize(
    ("ahead", "changes"),
    [
        (93, {f'{REVIEWED}{{reason="NotYetValid",result="refused"}}': 1}),
        (-7200, {f'{REVIEWED}{{reason="Expired",result="refused"}}': 1}),
        (
            30,
            {
                f'{REVIEWED}{{reason="",result="accepted"}}': 1,
                "serviceaccount_valid_tokens_total": 1,
                'leeway_accepted_by_leeway_total{claim="nbf"}': 1,
                'leeway_accepted_by_leeway_total{claim="iat"}': 1,
            },
        ),
    ],
)
def test_clocks(server: RunningServer, ahead: int, changes: dict[str, float]) -> None:
    token = server.sign(ahead=ahead)
    before = scrape(server)
    count = review_everywhere(server, token)
    expected = {name: times * count for name, times in changes.items()}
    assert moved(before, scrape(server)) == expected


def test_a_stale_token(server: RunningServer) -> None:
    now = int(time.time())
    account = {"name": "a", "uid": "u"}
    kubernetes = {"namespace": "demo", "serviceaccount": account, "warnafter": now - 5}
    claims = {"sub": "system:serviceaccount:demo:a", "kubernetes.io": kubernetes}
    token = token_with(server, **claims)
    before = scrape(server)
    count = review_everywhere(server, token)
    assert moved(before, scrape(server)) == {
        f'{REVIEWED}{{reason="",result="accepted"}}': count,
        "serviceaccount_stale_tokens_total": count,
    }


def test_permission_checks_and_tokens_issued(server: RunningServer) -> None:
    before = scrape(server)
    attributes = {"verb": "post", "path": "/leeway/tokenreviews"}
    for user in ("kube-apiserver", "kube-apiserver", "nobody"):
        body = {"spec": {"user": user, "nonResourceAttributes": attributes}}
        assert server.post(MAY_THEY, body).status == 201
    answer = server.post(TOKEN, {"spec": {}}, server.context("root"))
    server.tokens.append(answer.json["status"]["token"])
    assert moved(before, scrape(server)) == {
        'leeway_permission_checks_total{allowed="true"}': 2,
        'leeway_permission_checks_total{allowed="false"}': 1,
        "leeway_tokens_issued_total": 1,
    }


def test_the_auth_revision_is_the_same_in_every_worker(server: RunningServer) -> None:
    before = scrape(server)["leeway_auth_revision"]
    as_root(server, ("role/add", {"name": "counted"}))
    with connections_to_every_worker(server, "root") as connections:
        texts = {request_on(c, "GET", "/metrics").body.decode() for c in connections}
    found = re.findall(r"(?m)^leeway_auth_revision (.*)$", "".join(texts))
    assert len(found) == len(texts)
    assert {float(value) for value in found} == {before + 1}


def test_the_age_of_the_signing_key(server: RunningServer) -> None:
    old = scrape(server)["leeway_signing_key_age_seconds"]
    time.sleep(1.1)
    assert old < scrape(server)["leeway_signing_key_age_seconds"] < old + 60
    policy = rotation_policy_of(load_configuration(server.data_dir, {}, {}))
    for _ in range(2):
        rotate(server.data_dir / "keys", policy, int(time.time()), force=True)
    deadline = time.monotonic() + 10
    while scrape(server)["leeway_signing_key_age_seconds"] > old:
        assert time.monotonic() < deadline
        time.sleep(0.1)
