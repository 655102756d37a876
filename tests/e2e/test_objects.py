"""Bound objects of tokens, in every worker of a real server."""

import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from tests.fake_kube import PLURALS, FakeKube, Request, fake_kube
from tests.support import JSONObject, assert_within, claims_in, wait_until
from webhook.assembly import keyring_of, policy_of
from webhook.config.load import load_configuration
from webhook.token.bound_objects import Kind, ObjectKey
from webhook.token.claims import ObjectReference
from webhook.token.issuer import TokenSpec, issue_token

from .auth import API_SERVER, ROOT, connections_to_every_worker
from .harness import REVIEWS, Answer, RunningServer, request_on, review_of, start_server

NAMESPACE = "argo-run"
SA = ObjectKey(Kind.SERVICE_ACCOUNT, NAMESPACE, "loofah")
POD = ObjectKey(Kind.POD, NAMESPACE, "loofah-0")
SECRET = ObjectKey(Kind.SECRET, NAMESPACE, "loofah-token")
NODE = ObjectKey(Kind.NODE, "", "node-1")
KEYS = (SA, POD, SECRET, NODE)
PARAMETERS = [pytest.param(key, id=str(key.kind)) for key in KEYS]
SPEC = {"serviceAccountName": "loofah", "nodeName": "node-1"}
LEEWAY_SECONDS = 60
# The requirement: in every worker, after this and the leeway.
DELETED_WITHIN_SECONDS = 1.0
# A minute is the requirement: TEST_OUTAGE_SECONDS=60. What counts is that it is shorter than
# maxSilence and longer than it takes to notice.
OUTAGE_SECONDS = float(os.environ.get("TEST_OUTAGE_SECONDS", "3"))
SHORT_SILENCE = "5s"
JSON = {"Content-Type": "application/json"}
_numbers = itertools.count()


def uid_of(key: ObjectKey) -> str:
    return f"u-{key.kind}"


def fresh_uid() -> str:
    """Return a UID that no object of these tests has had."""
    return f"new-{next(_numbers)}"


def restore(kube: FakeKube) -> None:
    for key in KEYS:
        kube.put(key, uid_of(key), spec=SPEC if key is POD else {})


@contextmanager
def server_with(
    folder: Path, objects: Mapping[str, object], **files: bytes
) -> Iterator[RunningServer]:
    """Run a server with a source of objects, and files in its data directory."""

    def prepare(data_dir: Path) -> None:
        with (data_dir / "leeway.yaml").open("a") as configuration:
            configuration.write(f"objects: {json.dumps(objects)}\n")
        for name, data in files.items():
            (data_dir / name).write_bytes(data)
            (data_dir / name).chmod(0o600)

    running = start_server(folder, prepare)
    try:
        yield running
    finally:
        running.stop(
            expected_trouble=r"not read again|could not be looked up|the API server|left-out"
        )
    log = running.log()
    assert not [token for token in running.tokens if token.rpartition(".")[2][:40] in log]


@contextmanager
def kubernetes_server(
    folder: Path, kube: FakeKube, max_silence: str = "300s"
) -> Iterator[RunningServer]:
    section = {"kubeconfig": "kube", "maxSilence": max_silence}
    objects = {"source": "kubernetes", "kubernetes": section}
    with server_with(folder, objects, kube=kube.kubeconfig()) as running:
        # One watch of each kind for each worker.
        wait_until(
            lambda: all(
                len(kube.asked(f"/api/v1/{plural}", watch="1")) >= 2 for plural in PLURALS.values()
            )
        )
        yield running


@pytest.fixture(scope="module")
def kube() -> Iterator[FakeKube]:
    with fake_kube() as running:
        restore(running)
        yield running


@pytest.fixture(scope="module")
def cluster(kube: FakeKube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with kubernetes_server(tmp_path_factory.mktemp("objects"), kube) as running:
        yield running


@pytest.fixture
def everyone(cluster: RunningServer, kube: FakeKube) -> Iterator[Sequence[HTTPSConnection]]:
    """Return connections to every worker, after restoring all objects."""
    restore(kube)
    tokens = [token_for(cluster, key) for key in KEYS]
    with connections_to_every_worker(cluster, API_SERVER, 6) as connections:
        # The UIDs are those of before, which no real API server would give again.
        wait_until(lambda: all(verdicts(connections, token) == {""} for token in tokens))
        yield connections
    kube.before = lambda _: None


def token_for(server: RunningServer, key: ObjectKey, uid: str = "") -> str:
    """Sign a token that is bound to an object."""
    configuration = load_configuration(server.data_dir, {}, {})
    uid = uid or uid_of(key)
    bound: dict[str, Any] = {str(key.kind).lower(): ObjectReference(key.name, uid)}
    if key is SA:
        request = TokenSpec(NAMESPACE, SA.name, uid)
    else:
        request = TokenSpec(NAMESPACE, SA.name, uid_of(SA), **bound)
    keyring = keyring_of(server.data_dir)
    token = issue_token(request, policy_of(configuration), keyring, int(time.time())).token
    server.tokens.append(token)
    return token


def verdicts(connections: Sequence[HTTPSConnection], token: str) -> set[str]:
    """Review a token on every connection; return the reasons, empty where it is accepted."""
    found = set()
    for connection in connections:
        body = json.dumps(review_of(token)).encode()
        answer = request_on(connection, "POST", REVIEWS, body, JSON)
        assert answer.status == 201, answer
        status = answer.json["status"]
        reason = answer.json["metadata"].get("annotations", {}).get("leeway.dev/reason", "")
        assert status["authenticated"] is (reason == "")
        assert ("error" in status) is (reason != "")
        found.add(reason)
    return found


def gone(key: ObjectKey) -> str:
    return "ServiceAccountGone" if key is SA else "BoundObjectGone"


# Done when 4 -----------------------------------------------------------------------------------


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", PARAMETERS)
def test_deleted(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection], key: ObjectKey
) -> None:
    token = token_for(cluster, key)
    assert verdicts(everyone, token) == {""}
    kube.delete(key)
    time.sleep(DELETED_WITHIN_SECONDS)
    assert verdicts(everyone, token) == {gone(key)}


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", PARAMETERS)
def test_deleted_for_longer_than_the_leeway(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection], key: ObjectKey
) -> None:
    token = token_for(cluster, key)
    deleted_at = int(time.time()) - LEEWAY_SECONDS + 3
    kube.put(key, uid_of(key), deleted_at=deleted_at, spec=SPEC if key is POD else {})
    assert verdicts(everyone, token) == {""}
    counts_until = deleted_at + LEEWAY_SECONDS
    time.sleep(counts_until + DELETED_WITHIN_SECONDS - time.time())
    assert verdicts(everyone, token) == {gone(key)}


@pytest.mark.bad_input(25)
@pytest.mark.parametrize("key", PARAMETERS)
def test_recreated(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection], key: ObjectKey
) -> None:
    uid = fresh_uid()
    old, new = token_for(cluster, key), token_for(cluster, key, uid)
    assert verdicts(everyone, old) == {""}
    kube.put(key, uid, spec=SPEC if key is POD else {})
    # At once, whatever the watches have reported.
    assert verdicts(everyone, new) == {""}
    time.sleep(DELETED_WITHIN_SECONDS)
    assert verdicts(everyone, old) == {"UIDMismatch"}
    assert verdicts(everyone, new) == {""}


@pytest.mark.bad_input(25)
def test_an_object_that_the_watches_have_not_reported(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection]
) -> None:
    kube.silent = True
    try:
        uid = fresh_uid()
        kube.put(POD, uid, spec=SPEC)
        assert verdicts(everyone, token_for(cluster, POD, uid)) == {""}
        # Looked up once by each worker, and remembered.
        never = token_for(cluster, POD, "never")
        before = len(kube.look_ups())
        for _ in range(5):
            assert verdicts(everyone, never) == {"UIDMismatch"}
        assert len(kube.look_ups()) - before == 2
    finally:
        kube.silent = False


@pytest.mark.bad_input(25)
def test_a_flood_of_tokens_of_missing_objects(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection]
) -> None:
    missing = token_for(cluster, POD._replace(name="missing"), "u")
    before = len(kube.look_ups())
    for _ in range(20):
        assert verdicts(everyone, missing) == {"BoundObjectGone"}
    # One for each worker.
    assert len(kube.look_ups()) - before == 2


@pytest.mark.bad_input(25)
def test_the_source_is_down(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection]
) -> None:
    tokens = {key: token_for(cluster, key) for key in KEYS}
    kube.delete(SECRET)
    kube.put(NODE, fresh_uid())
    right = {SA: "", POD: "", SECRET: "BoundObjectGone", NODE: "UIDMismatch"}
    time.sleep(DELETED_WITHIN_SECONDS)
    kube.down()
    try:
        until = time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < until:
            for key, token in tokens.items():
                assert verdicts(everyone, token) == {right[key]}
            for connection in everyone:
                assert request_on(connection, "GET", "/readyz").status == 200
            unknown = token_for(cluster, POD._replace(name="unknown"), "u")
            assert verdicts(everyone, unknown) == {"LookupFailed"}
            time.sleep(0.2)
        kube.delete(POD)
    finally:
        kube.up()
    wait_until(lambda: verdicts(everyone, tokens[POD]) == {"BoundObjectGone"})
    for key in (SA, SECRET, NODE):
        assert verdicts(everyone, tokens[key]) == {right[key]}


@pytest.mark.bad_input(25)
def test_the_source_is_down_for_too_long(tmp_path: Path) -> None:
    with fake_kube() as kube:
        restore(kube)
        with kubernetes_server(tmp_path, kube, SHORT_SILENCE) as server:
            token = token_for(server, POD)
            with connections_to_every_worker(server, API_SERVER, 6) as connections:
                assert verdicts(connections, token) == {""}
                kube.down()
                wait_until(lambda: verdicts(connections, token) == {"LookupFailed"})
                # Apart from what was refused.
                metrics = server.request("GET", "/metrics").body
                assert b'leeway_tokenreviews_total{reason="LookupFailed",result="error"}' in metrics
                for connection in connections:
                    answer = request_on(connection, "GET", "/readyz")
                    assert answer.status == 503
                    assert b"[-]objects failed: nothing was heard of ServiceAccounts" in answer.body
                    assert (
                        b"for longer than maxSilence 5s: it cannot be reached: Connection refused"
                        in answer.body
                    )
                    assert request_on(connection, "GET", "/livez").status == 200
                kube.up()
                wait_until(lambda: verdicts(connections, token) == {""})
                wait_until(
                    lambda: all(request_on(c, "GET", "/readyz").status == 200 for c in connections)
                )
                body = request_on(connections[0], "GET", "/readyz?verbose").body
                assert b"[+]objects ok" in body


def test_slow_answers_delay_no_other_client(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection]
) -> None:
    """The bound is the requirement."""
    known, unknown = token_for(cluster, POD), token_for(cluster, POD._replace(name="slow"), "u")

    def wait(request: Request) -> None:
        if request.is_look_up:
            time.sleep(5)

    kube.before = wait
    waiting, *others = everyone
    body = json.dumps(review_of(unknown)).encode()
    started = time.monotonic()
    waiting.request("POST", REVIEWS, body, JSON)
    assert verdicts(others, known) == {""}
    answer = waiting.getresponse()
    assert b"LookupFailed" in answer.read()
    assert_within(time.monotonic() - started, 4)


def test_a_file_of_objects(tmp_path: Path) -> None:
    def text_of(*keys: ObjectKey) -> bytes:
        items = []
        for key in keys:
            place = {"namespace": key.namespace} if key.namespace else {}
            metadata = {"name": key.name, "uid": uid_of(key), **place}
            items.append({"kind": str(key.kind), "apiVersion": "v1", "metadata": metadata})
        return json.dumps({"kind": "List", "apiVersion": "v1", "items": items}).encode()

    objects = {"source": "file", "file": {"path": "objects.json"}}
    with (
        server_with(tmp_path, objects, **{"objects.json": text_of(*KEYS)}) as server,
        connections_to_every_worker(server, API_SERVER) as connections,
    ):
        token = token_for(server, POD)
        assert verdicts(connections, token) == {""}
        path = server.data_dir / "objects.json"
        new = path.with_suffix(".new")
        new.write_bytes(text_of(SA, SECRET, NODE))
        new.rename(path)
        time.sleep(DELETED_WITHIN_SECONDS)
        assert verdicts(connections, token) == {"BoundObjectGone"}
        path.write_bytes(b"{")
        wait_until(
            lambda: all(
                b"[!]objects warning: " in request_on(c, "GET", "/readyz?verbose").body
                for c in connections
            )
        )
        assert all(request_on(c, "GET", "/readyz").status == 200 for c in connections)
        broken = b'leeway_reload_failing{what="objects"} 1.0'
        wait_until(lambda: broken in server.request("GET", "/metrics").body)
        assert verdicts(connections, token) == {"BoundObjectGone"}
        assert verdicts(connections, token_for(server, SECRET)) == {""}


# TokenRequest ------------------------------------------------------------------------------------


def ask_token(
    server: RunningServer,
    reference: Mapping[str, str] | None,
    name: str = SA.name,
    **members: object,
) -> Answer:
    spec = ({"boundObjectRef": reference} if reference else {}) | members
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token"
    return server.post(path, body, server.context(ROOT))


def reference_to(kind: str, name: str, uid: str = "") -> dict[str, str]:
    return {"kind": kind, "apiVersion": "v1", "name": name} | ({"uid": uid} if uid else {})


def claims_of(token: str) -> JSONObject:
    found: JSONObject = claims_in(token)["kubernetes.io"]
    return found


BOUND = [
    pytest.param(None, {}, id="none"),
    pytest.param(
        reference_to("Pod", "loofah-0"),
        {
            "pod": {"name": "loofah-0", "uid": "u-Pod"},
            "node": {"name": "node-1", "uid": "u-Node"},
        },
        id="pod-and-its-node",
    ),
    pytest.param(
        reference_to("Secret", "loofah-token", "u-Secret"),
        {"secret": {"name": "loofah-token", "uid": "u-Secret"}},
        id="secret",
    ),
    pytest.param(
        reference_to("Node", "node-1"), {"node": {"name": "node-1", "uid": "u-Node"}}, id="node"
    ),
]


@pytest.mark.parametrize(("reference", "expected"), BOUND)
def test_a_token_is_bound(
    cluster: RunningServer,
    everyone: Sequence[HTTPSConnection],
    reference: Mapping[str, str] | None,
    expected: Mapping[str, object],
) -> None:
    answer = ask_token(cluster, reference)
    assert answer.status == 201, answer
    token = answer.json["status"]["token"]
    cluster.tokens.append(token)
    claims = claims_of(token)
    assert claims["serviceaccount"] == {"name": "loofah", "uid": "u-ServiceAccount"}
    for kind in ("pod", "secret", "node"):
        assert claims.get(kind) == expected.get(kind)
    assert verdicts(everyone, token) == {""}
    if "pod" in expected:
        extra = cluster.post_review(token).json["status"]["user"]["extra"]
        assert extra["authentication.kubernetes.io/node-name"] == ["node-1"]
        assert extra["authentication.kubernetes.io/node-uid"] == ["u-Node"]


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("reference", "lives"),
    [
        pytest.param(reference_to("Pod", "loofah-0"), 365 * 86_400, id="pod"),
        pytest.param(reference_to("Secret", "loofah-token"), 3607, id="secret"),
        pytest.param(None, 3607, id="not-bound"),
    ],
)
def test_the_token_of_an_existing_pod_is_extended(
    cluster: RunningServer, reference: Mapping[str, str] | None, lives: int
) -> None:
    answer = ask_token(cluster, reference, expirationSeconds=3607)
    assert answer.status == 201, answer
    token = answer.json["status"]["token"]
    cluster.tokens.append(token)
    claims = claims_in(token)
    assert claims["exp"] - claims["iat"] == lives
    assert answer.json["spec"]["expirationSeconds"] == 3607


REFUSED = [
    pytest.param(
        reference_to("Pod", "nope"),
        SA.name,
        404,
        "NotFound",
        'pods "nope" not found',
        id="pod-missing",
    ),
    pytest.param(
        reference_to("Secret", "nope"),
        SA.name,
        404,
        "NotFound",
        'secrets "nope" not found',
        id="secret-missing",
    ),
    pytest.param(
        reference_to("Node", "nope"),
        SA.name,
        404,
        "NotFound",
        'nodes "nope" not found',
        id="node-missing",
    ),
    pytest.param(
        None, "nope", 404, "NotFound", 'serviceaccounts "nope" not found', id="account-missing"
    ),
    pytest.param(
        reference_to("Pod", "loofah-0", "other"),
        SA.name,
        409,
        "Conflict",
        "does not match the UID in record",
        id="pod-uid",
    ),
    pytest.param(
        reference_to("Secret", "loofah-token", "other"),
        SA.name,
        409,
        "Conflict",
        "does not match the UID in record",
        id="secret-uid",
    ),
    pytest.param(
        reference_to("Node", "node-1", "other"),
        SA.name,
        409,
        "Conflict",
        "does not match the UID in record",
        id="node-uid",
    ),
    pytest.param(
        reference_to("ConfigMap", "x"),
        SA.name,
        400,
        "BadRequest",
        "cannot bind token to object of type",
        id="kind",
    ),
    pytest.param(
        reference_to("Pod", "loofah-0"),
        "another",
        400,
        "BadRequest",
        "different serviceaccount name",
        id="pod-of-another",
    ),
]


@pytest.mark.bad_input(25)
@pytest.mark.parametrize(("reference", "name", "code", "reason", "message"), REFUSED)
def test_a_token_is_refused(
    cluster: RunningServer,
    kube: FakeKube,
    everyone: Sequence[HTTPSConnection],
    reference: Mapping[str, str] | None,
    name: str,
    code: int,
    reason: str,
    message: str,
) -> None:
    kube.put(SA._replace(name="another"), "u")
    answer = ask_token(cluster, reference, name)
    assert (answer.status, answer.json["code"], answer.json["reason"]) == (code, code, reason)
    assert message in answer.json["message"]


@pytest.mark.bad_input(25)
def test_a_deletion_applies_to_requests_at_once(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection]
) -> None:
    kube.silent = True
    try:
        kube.delete(SECRET)
        assert ask_token(cluster, reference_to("Secret", "loofah-token")).status == 404
        uid = fresh_uid()
        kube.put(SECRET, uid)
        answer = ask_token(cluster, reference_to("Secret", "loofah-token"))
        assert answer.status == 201, answer
        assert claims_of(answer.json["status"]["token"])["secret"]["uid"] == uid
    finally:
        kube.silent = False


@pytest.mark.bad_input(25)
def test_no_token_while_the_source_is_down(
    cluster: RunningServer, kube: FakeKube, everyone: Sequence[HTTPSConnection]
) -> None:
    kube.down()
    try:
        answer = ask_token(cluster, reference_to("Pod", "loofah-0"))
        assert (answer.status, answer.json["reason"]) == (503, "ServiceUnavailable")
        assert answer.headers["retry-after"] == "1"
        assert "could not be looked up, so no token was made" in answer.json["message"]
    finally:
        kube.up()
    wait_until(lambda: ask_token(cluster, None).status == 201)
