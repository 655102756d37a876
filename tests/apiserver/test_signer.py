"""A real kube-apiserver for which ``leeway signer`` signs."""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jwt
import pytest

from keys.keyring import KeyState
from tests.e2e.harness import AUDIENCE
from tests.secrets_made import token_made
from tests.support import claims_in, good_claims, signing_key, token_of, wait_until
from webhook.assembly import keyring_of

from .cluster import (
    ISSUER,
    LEGACY_ISSUER,
    SIGNING_KEY,
    APIServer,
    Authority,
    running_api_server,
    started_api_server,
    wait_until_ready,
)
from .signed import NAMESPACE as SIGNED
from .signed import (
    NAMESPACED,
    REFRESH_SECONDS,
    TOKEN_REVIEWS,
    SignedCluster,
    Signer,
    flags_of,
    header_of,
    prepared_signer,
    read_configuration,
    running_signed_cluster,
    write_configuration,
)

DAY = 86400
GENERIC = "the claims were refused"
THREADS = 3


@pytest.fixture(scope="module")
def signed(
    etcd_port: int, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SignedCluster]:
    with running_signed_cluster(tmp_path_factory.mktemp("signed"), etcd_port, authority) as found:
        yield found


@pytest.fixture(scope="module")
def second(
    signed: SignedCluster, etcd_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[APIServer]:
    """Run another API server of the cluster, as on another control plane node.

    It has no token signed, so only the refresh hint and unknown kids let it fetch the keys.
    """
    folder = tmp_path_factory.mktemp("second") / "kube-apiserver"
    with running_api_server(
        folder, etcd_port, signed.api.authority, flags_of(signed.signer)
    ) as found:
        yield found


def pod(name: str, account: str = "reader") -> dict[str, object]:
    containers = [{"name": "c", "image": "registry.example/none"}]
    spec = {"serviceAccountName": account, "containers": containers}
    return {"metadata": {"name": name}, "spec": spec}


def test_a_token_of_kubectl_is_signed_by_leeway_and_accepted_by_both(signed: SignedCluster) -> None:
    token = signed.token("reader")
    active = keyring_of(signed.signer.data_dir).signing_key().verification_key
    assert header_of(token) == {"alg": "ES256", "kid": active.kid, "typ": "JWT"}
    signed.assert_accepted(token)
    done = signed.api.kubectl("auth", "whoami", "-o", "json", token=token)
    assert done.code == 0, done.err
    user = json.loads(done.out)["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{SIGNED}:reader"
    jti = claims_in(token)["jti"]
    assert user["extra"]["authentication.kubernetes.io/credential-id"] == [f"JTI={jti}"]


def test_a_signature_has_an_audit_line_without_the_token(signed: SignedCluster) -> None:
    token = signed.token("reader", "--audience", "elsewhere", "--duration", "20m")
    claims = claims_in(token)
    lines = [r for r in signed.signer.records("audit") if r.get("jti") == claims["jti"]]
    (line,) = lines
    assert line["action"] == "token.sign"
    assert line["kid"] == header_of(token)["kid"]
    assert line["subject"] == f"system:serviceaccount:{SIGNED}:reader"
    assert line["audiences"] == ["elsewhere"]
    assert token.rpartition(".")[2] not in signed.signer.log()


def test_the_documents_of_the_api_server_have_our_keys(signed: SignedCluster) -> None:
    document = json.loads(signed.api.run("get", "--raw", "/.well-known/openid-configuration"))
    assert document["issuer"] == ISSUER
    answer = signed.api.request("GET", "/openid/v1/jwks")
    found = {key["kid"] for key in answer.json["keys"]}
    assert found == {key.kid for key in keyring_of(signed.signer.data_dir).published_keys()}
    # A client can keep them until the API server fetches them again.
    kind, _, seconds = answer.headers["cache-control"].rpartition("=")
    assert kind == "public, max-age"
    assert int(seconds) <= REFRESH_SECONDS


def test_the_token_of_a_pod_is_extended_and_ends_with_it(signed: SignedCluster) -> None:
    uid = signed.api.create(f"{NAMESPACED}/pods", pod("bound"))
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "bound", "uid": uid}
    # What a kubelet requests for the volume of a Pod.
    token = signed.requested_token("reader", {"expirationSeconds": 3607, "boundObjectRef": bound})
    claims = claims_in(token)
    assert claims["kubernetes.io"]["pod"] == {"name": "bound", "uid": uid}
    assert claims["kubernetes.io"]["warnafter"] == claims["iat"] + 3607
    assert claims["exp"] - claims["iat"] == DAY, "tokens.maxExpiration limits the extension"
    wait_until(lambda: signed.refusal_of_leeway(token) == "")
    signed.assert_accepted(token)
    signed.api.run("delete", "pod", "bound", "-n", SIGNED, "--grace-period=0", "--force")
    # Longer than the leeway for clocks, which is that of `expiry`.
    wait_until(lambda: signed.refusal_of_leeway(token) == "BoundObjectGone", 90)
    wait_until(lambda: signed.refusal_of_api_server(token) != "", 90)


NODES = "/api/v1/nodes"
LONG_NAME = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
AUDIENCES: dict[str, list[str]] = {
    "several": ["a", "b", "c"],
    "twice": ["a", "a"],
    "escaped-by-go": ["<a href='x'>&</a>"],
    "quotes": ['"\\/'],
    "other-planes": ["\U0001f512", "café", "שלום", "\ufffd"],
    "looks-like-claims": ['{"iss": "x"}', "ISS"],
    "long": ["x" * 8000],
    "many": [f"https://audience-{number}.example" for number in range(100)],
}
# Leeway never accepts such a token, so it signs none.
ODD_AUDIENCES: dict[str, list[str]] = {
    "empty": [""],
    "controls": ["\n"],
    "NUL": ["\x00"],
    "line-separator": ["\u2028"],
    "too-many": ["a"] * 101,
    "too-long": ["x" * 30_000],
}


@pytest.mark.parametrize("audiences", AUDIENCES.values(), ids=AUDIENCES)
def test_the_audiences_of_a_request_are_signed(signed: SignedCluster, audiences: list[str]) -> None:
    """Go escapes some characters, and the signature covers the bytes as they are."""
    token = signed.requested_token("reader", {"audiences": audiences})
    assert claims_in(token)["aud"] == audiences
    body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1"}
    spec = {"token": token, "audiences": audiences[-1:]}
    status = signed.api.request("POST", TOKEN_REVIEWS, body | {"spec": spec}).json["status"]
    assert status["authenticated"], status
    assert signed.leeway.post_review(token, audiences[-1:]).json["status"]["authenticated"]


@pytest.mark.bad_input(71)
@pytest.mark.parametrize("audiences", ODD_AUDIENCES.values(), ids=ODD_AUDIENCES)
def test_audiences_that_leeway_would_not_accept_are_refused(
    signed: SignedCluster, audiences: list[str]
) -> None:
    before = len(signed.signer.records("sign"))
    answer = signed.request_token("reader", {"audiences": audiences})
    assert answer.status == 500
    assert answer.json["message"].endswith(f"code = InvalidArgument desc = {GENERIC}")
    (record,) = signed.signer.records("sign")[before:]
    assert record["reason"] in ("Malformed", "TooLarge")


def test_every_kind_of_binding_is_signed(signed: SignedCluster) -> None:
    signed.api.create(NODES, {"metadata": {"name": "here"}})
    signed.api.create(f"{NAMESPACED}/secrets", {"metadata": {"name": "binding"}})
    for name, node in (("on-a-node", "here"), ("on-no-node", "gone"), ("not-scheduled", "")):
        found = pod(name)
        spec = found["spec"]
        assert isinstance(spec, dict)
        signed.api.create(f"{NAMESPACED}/pods", found | {"spec": spec | {"nodeName": node}})
    for kind, name, private in (
        ("Node", "here", {"node": {"name", "uid"}}),
        ("Secret", "binding", {"secret": {"name", "uid"}}),
        ("Pod", "on-a-node", {"pod": {"name", "uid"}, "node": {"name", "uid"}}),
        # The name of a node that is gone is in the claims without its UID.
        ("Pod", "on-no-node", {"pod": {"name", "uid"}, "node": {"name"}}),
        ("Pod", "not-scheduled", {"pod": {"name", "uid"}}),
    ):
        version = {"apiVersion": "v1", "kind": kind, "name": name}
        token = signed.requested_token("reader", {"boundObjectRef": version})
        claims = claims_in(token)["kubernetes.io"]
        assert {key: set(claims[key]) for key in ("node", "secret", "pod") if key in claims} == (
            private
        )
        wait_until(partial(is_accepted_by_leeway, signed, token))
        assert signed.refusal_of_api_server(token) == ""


def is_accepted_by_leeway(signed: SignedCluster, token: str) -> bool:
    return not signed.refusal_of_leeway(token)


@pytest.mark.parametrize(
    "name", [LONG_NAME, "with.dots.and-dashes", "0"], ids=["long", "dots", "0"]
)
def test_a_service_account_of_any_name_has_its_tokens_signed(
    signed: SignedCluster, name: str
) -> None:
    signed.api.create(f"{NAMESPACED}/serviceaccounts", {"metadata": {"name": name}})
    token = signed.requested_token(name)
    assert claims_in(token)["sub"] == f"system:serviceaccount:{SIGNED}:{name}"
    wait_until(lambda: signed.refusal_of_leeway(token) == "")
    assert signed.refusal_of_api_server(token) == ""


@pytest.mark.parametrize("seconds", [600, 601, 3606, 3607, 3608, DAY, DAY + 1, 1 << 32])
def test_any_lifetime_of_a_request_is_signed(signed: SignedCluster, seconds: int) -> None:
    """The API server knows the longest one, and shortens what is longer."""
    claims = claims_in(signed.requested_token("reader", {"expirationSeconds": seconds}))
    assert claims["exp"] - claims["iat"] == min(seconds, DAY)


def test_a_revoked_token_is_refused_by_leeway_alone(signed: SignedCluster) -> None:
    token = signed.token("reader")
    signed.assert_accepted(token)
    signed.run("revoke", "jti", claims_in(token)["jti"])
    wait_until(lambda: signed.refusal_of_leeway(token) == "Revoked")
    # The API server verifies the token itself, and asks nobody.
    assert signed.refusal_of_api_server(token) == ""


def test_tokens_of_the_clusters_former_key_stay_valid(
    signed: SignedCluster, cluster: APIServer
) -> None:
    """The other API server of this cluster has a key file; both have the same objects."""
    token = cluster.run("create", "token", "reader", "-n", SIGNED).strip()
    assert header_of(token)["kid"] == SIGNING_KEY.verification_key.kid
    assert claims_in(token)["iss"] == ISSUER
    wait_until(lambda: signed.refusal_of_leeway(token) == "")
    signed.assert_accepted(token)


def legacy_token(api: APIServer, name: str) -> str:
    account = api.request("GET", f"{NAMESPACED}/serviceaccounts/other").json["metadata"]
    prefix = "kubernetes.io/serviceaccount/"
    claims = {
        "iss": LEGACY_ISSUER,
        f"{prefix}namespace": SIGNED,
        f"{prefix}secret.name": name,
        f"{prefix}service-account.name": "other",
        f"{prefix}service-account.uid": account["uid"],
        "sub": f"system:serviceaccount:{SIGNED}:other",
    }
    token = token_of(claims, SIGNING_KEY)
    annotations = {"kubernetes.io/service-account.name": "other"}
    secret = {
        "metadata": {"name": name, "annotations": annotations},
        "type": "kubernetes.io/service-account-token",
        "stringData": {"token": token},
    }
    api.create(f"{NAMESPACED}/secrets", secret)
    return token


def test_the_token_of_a_secret_stays_valid(signed: SignedCluster) -> None:
    token = legacy_token(signed.api, "legacy")
    wait_until(lambda: (signed.refusal_of_leeway(token), signed.refusal_of_api_server(token)) ==
               ("", ""))  # fmt: skip


def test_a_key_that_leeway_does_not_have_is_refused_by_both(signed: SignedCluster) -> None:
    now = int(time.time())
    claims = good_claims(iss=ISSUER, iat=now, nbf=now, exp=now + 600)
    token = token_of(claims, signing_key("ES256", "stranger"))
    assert signed.refusal_of_leeway(token) == "UnknownKey"
    assert signed.refusal_of_api_server(token) != ""


@pytest.mark.bad_input(71)
def test_a_refusal_is_generic_and_the_reason_is_in_the_log(signed: SignedCluster) -> None:
    """The signer is told to sign for less time than the API server has been told it does."""
    before = read_configuration(signed.signer.data_dir)
    write_configuration(signed.signer.data_dir, before | {"tokens": {"maxExpiration": "2h"}})
    signed.signer.reload()
    try:
        done = signed.api.kubectl("create", "token", "reader", "-n", SIGNED, "--duration=4h")
        assert done.code != 0
        assert GENERIC in done.err
        assert "LifetimeTooLong" not in done.err
        assert "14400" not in done.err
        refused = signed.signer.records("sign")[-1]
        assert refused["reason"] == "LifetimeTooLong"
        assert "14400" in refused["message"]
        assert refused["subject"] == f"system:serviceaccount:{SIGNED}:reader"
        signed.assert_accepted(signed.token("reader", "--duration=2h"))
    finally:
        write_configuration(signed.signer.data_dir, before)
        signed.signer.reload()
    signed.assert_accepted(signed.token("reader", "--duration=4h"))


class Load:
    """Threads that create tokens, and have new and old ones reviewed, until they are stopped.

    Leeway and both API servers review each.
    """

    def __init__(self, signed: SignedCluster, second: APIServer) -> None:
        self._signed = signed
        self._reviewers: dict[str, Callable[[str], str]] = {
            "Leeway": signed.refusal_of_leeway,
            "API server": signed.refusal_of_api_server,
            "second API server": lambda token: signed.refusal_of_api_server(token, second),
        }
        self._stop = threading.Event()
        self.refused: list[tuple[str, str, str]] = []
        self.failed: list[str] = []
        self.kids: set[str] = set()
        self.tokens: list[str] = []

    def run(self, during: Callable[[], None]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            threads = [pool.submit(self._work) for _ in range(THREADS)]
            try:
                during()
            finally:
                self._stop.set()
            for thread in threads:
                thread.result()

    def wait_for_more(self) -> None:
        """Wait until it has created one more token."""
        count = len(self.tokens)
        wait_until(lambda: len(self.tokens) > count)

    def _work(self) -> None:
        old = ""
        while not self._stop.is_set():
            answer = self._signed.request_token("reader")
            if answer.status != 201:
                self.failed.append(answer.json["message"])
                continue
            token = answer.json["status"]["token"]
            token_made(token)
            for reviewed in filter(None, (token, old)):
                for name, refusal_of in self._reviewers.items():
                    if refusal := refusal_of(reviewed):
                        self.refused.append((name, header_of(reviewed)["kid"], refusal))
            self.tokens.append(token)
            self.kids.add(header_of(token)["kid"])
            old = old or token


def age_keys(data_dir: Path, state: KeyState) -> None:
    """Let the keys of a state have been in it for two days more."""
    path = data_dir / "keys" / "schedule.json"
    schedule = json.loads(path.read_bytes())
    for entry in schedule["keys"]:
        if entry["state"] == state:
            entry["since"] -= 2 * DAY
    path.write_text(json.dumps(schedule))


def pending_kids(signed: SignedCluster) -> list[str]:
    keys = keyring_of(signed.signer.data_dir).keys
    return [key.kid for key in keys if key.state is KeyState.PENDING]


def active_kid(signed: SignedCluster) -> str:
    return keyring_of(signed.signer.data_dir).signing_key().verification_key.kid


def test_keys_rotate_under_load_and_no_token_is_refused(
    signed: SignedCluster, second: APIServer
) -> None:
    load = Load(signed, second)
    active = [active_kid(signed)]

    def rotate() -> None:
        for _ in range(3):
            signed.run("keys", "rotate")
            active.extend(pending_kids(signed))
            # The API server fetches it by the hint, before it signs.
            wait_until(lambda: active[-1] in signed.kids())
            assert active_kid(signed) == active[-2]
            age_keys(signed.signer.data_dir, KeyState.PENDING)
            signed.run("keys", "rotate")
            wait_until(lambda: active[-1] in load.kids)

    load.run(rotate)
    assert (load.refused, load.failed) == ([], [])
    assert load.kids == set(active)
    assert len(active) == 4


def test_a_forced_rotation_is_accepted_at_once_by_an_api_server(
    signed: SignedCluster, second: APIServer
) -> None:
    """It fetches the keys when it sees an unknown kid, as ``keys rotate --force`` says."""
    load = Load(signed, second)

    def rotate() -> None:
        for _ in range(3):
            signed.run("keys", "rotate")
            signed.run("keys", "rotate", "--force")
            wait_until(lambda: active_kid(signed) in load.kids)

    load.run(rotate)
    assert (load.refused, load.failed) == ([], [])


@pytest.mark.parametrize("algorithm", ["RS256", "ES384", "ES512", "ES256"])
def test_each_algorithm_is_accepted(signed: SignedCluster, algorithm: str) -> None:
    signed.run("keys", "generate", "--algorithm", algorithm)
    signed.run("keys", "rotate", "--force")
    wait_until(lambda: header_of(signed.requested_token("reader"))["kid"] == active_kid(signed))
    token = signed.token("reader")
    assert header_of(token)["alg"] == algorithm
    signed.assert_accepted(token)
    # And by a client of the API server's JWKS.
    wait_until(lambda: active_kid(signed) in signed.kids())
    document = json.loads(signed.api.run("get", "--raw", "/openid/v1/jwks"))
    key = jwt.PyJWKSet.from_dict(document)[header_of(token)["kid"]]
    claims = jwt.decode(token, key, [algorithm], audience=AUDIENCE, issuer=ISSUER)
    assert claims == claims_in(token)


def test_the_signer_alone_rotates_the_keys_automatically(
    signed: SignedCluster, second: APIServer
) -> None:
    """Without ``leeway serve``, which would take the steps too."""
    before, first = read_configuration(signed.signer.data_dir), active_kid(signed)
    signed.leeway.process.send_signal(signal.SIGSTOP)
    try:
        write_configuration(signed.signer.data_dir, before | {"keys": {"rotateEvery": "24h"}})
        signed.signer.reload()
        age_keys(signed.signer.data_dir, KeyState.ACTIVE)
        wait_until(lambda: len(pending_kids(signed)) == 1)
        (new,) = pending_kids(signed)
        wait_until(lambda: new in signed.kids())
        assert header_of(signed.requested_token("reader"))["kid"] == first
        age_keys(signed.signer.data_dir, KeyState.PENDING)
        wait_until(lambda: active_kid(signed) == new)
        wait_until(lambda: header_of(signed.requested_token("reader"))["kid"] == new)
        token = signed.requested_token("reader")
        for api in (signed.api, second):
            assert signed.refusal_of_api_server(token, api) == ""
    finally:
        signed.leeway.process.send_signal(signal.SIGCONT)
        write_configuration(signed.signer.data_dir, before)
        signed.signer.reload()
    signed.assert_accepted(token)


def test_doctor_finds_nothing_wrong_with_the_signer(signed: SignedCluster) -> None:
    report = json.loads(signed.run("doctor", "-o", "json"))
    found = {check["name"]: check for check in report["checks"]}
    for name in ("signer keys", "signer tokens", "signer socket", "signer"):
        assert found[name]["status"] == "ok", found[name]


def test_a_stolen_key_retired_by_force_ends_within_the_hint(signed: SignedCluster) -> None:
    token, old = signed.token("reader"), active_kid(signed)
    signed.run("keys", "rotate")
    signed.run("keys", "rotate", "--force")
    signed.run("keys", "retire", old, "--force")
    wait_until(lambda: signed.refusal_of_leeway(token) == "UnknownKey")
    # It remembers for ten seconds that it has accepted a token.
    wait_until(lambda: signed.refusal_of_api_server(token) != "", 30)
    assert old not in signed.kids()
    signed.assert_accepted(signed.token("reader"))


@pytest.mark.bad_input(72)
def test_a_killed_signer_is_waited_for_and_tokens_stay_valid(signed: SignedCluster) -> None:
    token = signed.token("reader")
    signed.signer.kill()
    assert signed.signer.socket.is_socket(), "a killed process leaves its socket"
    signed.assert_accepted(token)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(signed.requested_token, "reader")
        time.sleep(1)
        assert not waiting.done()
        signed.assert_accepted(token)
        signed.signer.start()
        new = waiting.result()
    signed.assert_accepted(new)
    signed.assert_accepted(token)


@pytest.mark.parametrize("ending", [Signer.stop, Signer.kill], ids=["stopped", "killed"])
def test_a_signer_that_ends_under_load(
    signed: SignedCluster, second: APIServer, ending: Callable[[Signer], None]
) -> None:
    """A call that is open or arrives at that moment can fail; a kubelet repeats it."""
    load, restarts = Load(signed, second), 3

    def restart() -> None:
        for _ in range(restarts):
            load.wait_for_more()
            ending(signed.signer)
            assert signed.signer.socket.exists() is (ending is Signer.kill)
            signed.signer.start()
        load.wait_for_more()

    load.run(restart)
    assert load.refused == []
    assert len(load.failed) <= restarts * THREADS
    for message in load.failed:
        assert re.search(r"rpc error: code = (Canceled|Unavailable) desc = ", message), message


def test_an_api_server_waits_for_its_signer(
    etcd_port: int, authority: Authority, tmp_path: Path
) -> None:
    signer = prepared_signer(tmp_path)
    with started_api_server(
        tmp_path / "kube-apiserver", etcd_port, authority, flags_of(signer)
    ) as api_server:
        time.sleep(5)
        assert api_server.process.poll() is None, api_server.log()
        signer.start()
        try:
            wait_until_ready(api_server)
        finally:
            signer.stop()


def test_an_api_server_does_not_start_with_a_longer_maximum(
    signed: SignedCluster, etcd_port: int, tmp_path: Path
) -> None:
    flags = flags_of(signed.signer) | {"service-account-max-token-expiration": "48h"}
    with started_api_server(
        tmp_path / "kube-apiserver", etcd_port, signed.api.authority, flags
    ) as api_server:
        assert api_server.process.wait(60) != 0
        assert "cannot be set longer than the token expiration supported" in api_server.log()


@pytest.mark.parametrize("flag", ["service-account-key-file", "service-account-signing-key-file"])
def test_an_api_server_does_not_start_with_a_key_beside_the_endpoint(
    signed: SignedCluster, etcd_port: int, tmp_path: Path, flag: str
) -> None:
    flags = flags_of(signed.signer)
    del flags[flag]
    with started_api_server(
        tmp_path / "kube-apiserver", etcd_port, signed.api.authority, flags
    ) as api_server:
        assert api_server.process.wait(60) != 0
        assert "mutually exclusive" in api_server.log()
