"""The clients that people have: the kubernetes package, kubectl, curl, kube-apiserver."""

import base64
import json
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes import client as kubernetes
from kubernetes.config import new_client_from_config

from .harness import AUDIENCE, HOST, REVIEWS, RunningServer, review_of

VERSIONS = ("authentication.k8s.io/v1", "authentication.k8s.io/v1beta1")


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture(params=["root", "kube-apiserver"])
def api(
    server: RunningServer, request: pytest.FixtureRequest
) -> Iterator[kubernetes.AuthenticationV1Api]:
    """Return the kubernetes client, from a kubeconfig and from certificates by hand."""
    if request.param == "root":
        api_client = new_client_from_config(str(server.data_dir / "kubeconfig" / "root.yaml"))
    else:
        configuration = kubernetes.Configuration(host=f"https://{HOST}:{server.port}")
        tls = server.data_dir / "tls"
        configuration.ssl_ca_cert = str(tls / "ca.crt")
        configuration.cert_file = str(tls / "kube-apiserver.crt")
        configuration.key_file = str(tls / "kube-apiserver.key")
        api_client = kubernetes.ApiClient(configuration)
    with api_client:
        yield kubernetes.AuthenticationV1Api(api_client)


def create(
    api: kubernetes.AuthenticationV1Api, token: str, **members: str
) -> kubernetes.V1TokenReview:
    spec = kubernetes.V1TokenReviewSpec(token=token, audiences=[AUDIENCE])
    return api.create_token_review(kubernetes.V1TokenReview(spec=spec, **members))


def test_kubernetes_client_accepted(
    server: RunningServer, api: kubernetes.AuthenticationV1Api
) -> None:
    for members in ({}, {"kind": "TokenReview", "api_version": VERSIONS[0]}):
        review = create(api, server.sign("builder"), **members)
        assert (review.kind, review.api_version) == ("TokenReview", VERSIONS[0])
        assert not review.spec.token
        assert review.status.authenticated is True
        assert review.status.user.username == "system:serviceaccount:demo:builder"
        assert review.status.audiences == [AUDIENCE]
        assert review.status.error is None


def test_kubernetes_client_refused(
    server: RunningServer, api: kubernetes.AuthenticationV1Api
) -> None:
    review = create(api, server.sign(ahead=93))
    assert review.status.authenticated is False
    assert review.status.user is None
    assert "service account token is not valid yet" in review.status.error
    assert review.metadata.annotations["leeway.dev/reason"] == "NotYetValid"


def test_kubernetes_client_as_it_is_sent(
    server: RunningServer, api: kubernetes.AuthenticationV1Api
) -> None:
    for ahead, authenticated in ((0, True), (93, False)):
        review = kubernetes.V1TokenReview(
            spec=kubernetes.V1TokenReviewSpec(token=server.sign(ahead=ahead), audiences=[AUDIENCE])
        )
        answer = api.create_token_review(review, _preload_content=False)
        assert answer.status == 201
        assert json.loads(answer.data)["status"]["authenticated"] is authenticated


def test_kubernetes_client_and_a_bad_review(api: kubernetes.AuthenticationV1Api) -> None:
    with pytest.raises(kubernetes.ApiException) as caught:
        create(api, "")
    assert caught.value.status == 400
    assert json.loads(caught.value.body)["message"].startswith("token is required")


def test_kubernetes_client_asks_for_the_version(api: kubernetes.AuthenticationV1Api) -> None:
    version = kubernetes.VersionApi(api.api_client).get_code()
    assert version.git_version.startswith("v")


def test_kube_apiserver_posts_to_the_server_of_its_kubeconfig(server: RunningServer) -> None:
    file = server.data_dir / "kubeconfig" / "tokenreview.yaml"
    document = yaml.safe_load(file.read_text())
    entries = {kind: document[f"{kind}s"][0] for kind in ("cluster", "user", "context")}
    assert document["current-context"] == entries["context"]["name"]
    assert entries["context"]["context"] == {
        "cluster": entries["cluster"]["name"],
        "user": entries["user"]["name"],
    }
    url = urlsplit(entries["cluster"]["cluster"]["server"])
    assert url.port == server.port
    ca = base64.b64decode(entries["cluster"]["cluster"]["certificate-authority-data"])
    context = ssl.create_default_context(cadata=ca.decode("ascii"))
    user = entries["user"]["user"]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name in ("client-certificate-data", "client-key-data"):
            files.append(Path(folder) / name)
            files[-1].write_bytes(base64.b64decode(user[name]))
        context.load_cert_chain(*files)
    # As client-go sends it: k8s.io/apiserver/plugin/pkg/authenticator/token/webhook.
    headers = {
        "Accept": "application/json, */*",
        "Content-Type": "application/json",
        "User-Agent": "kube-apiserver/v1.36.0 (linux/amd64) kubernetes/0000000",
        "Accept-Encoding": "gzip",
    }
    body = json.dumps(review_of(server.sign(), [AUDIENCE])).encode()
    answer = server.request("POST", url.path, body, headers, context)
    assert answer.status == 201
    assert answer.json["status"]["authenticated"] is True


def test_curl(server: RunningServer, tmp_path: Path) -> None:
    review = tmp_path / "review.json"
    review.write_text(json.dumps({"spec": {"token": server.sign()}}))
    tls = server.data_dir / "tls"
    command = [program("curl"), "--silent", "--show-error", "--fail-with-body"]
    command += ["--cacert", str(tls / "ca.crt")]
    command += ["--cert", str(tls / "root.crt"), "--key", str(tls / "root.key")]
    command += ["-H", "Content-Type: application/json", "--data-binary", f"@{review}"]
    command += ["-w", "\n%{http_code}", f"https://localhost:{server.port}{REVIEWS}"]
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=20)
    body, _, code = done.stdout.rpartition("\n")
    assert code == "201"
    assert json.loads(body)["status"]["authenticated"] is True


class Kubectl:
    """kubectl with the kubeconfig that ``init`` made."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.folder = folder
        self.command = [program("kubectl"), "--cache-dir", str(folder / "cache")]
        self.command += ["--kubeconfig", str(server.data_dir / "kubeconfig" / "root.yaml")]

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run it and return what it prints; on stderr where it is to fail."""
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, check=False, text=True, timeout=60
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else done.stdout

    def file(self, value: object) -> str:
        """Write a manifest."""
        path = self.folder / "manifest.yaml"
        path.write_text(yaml.safe_dump(value))
        return str(path)


@pytest.fixture
def kubectl(server: RunningServer, tmp_path: Path) -> Kubectl:
    return Kubectl(server, tmp_path)


def manifest(token: object, version: str = VERSIONS[0]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": "TokenReview", "spec": {"token": token}}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_create(server: RunningServer, kubectl: Kubectl, version: str) -> None:
    file = kubectl.file(manifest(server.sign("builder"), version))
    # What kubectl prints of a TokenReview made at an API server: reviews have no name.
    assert kubectl.run("create", "-f", file) == (
        "tokenreview.authentication.k8s.io/<unknown> created\n"
    )
    review = yaml.safe_load(kubectl.run("create", "-f", file, "-o", "yaml"))
    assert (review["kind"], review["apiVersion"]) == ("TokenReview", version)
    assert review["metadata"] == {"creationTimestamp": None}
    assert not review["spec"].get("token")
    assert review["status"]["user"]["username"] == "system:serviceaccount:demo:builder"
    username = kubectl.run("create", "-f", file, "-o", "jsonpath={.status.user.username}")
    assert username == "system:serviceaccount:demo:builder"


def test_kubectl_create_refused(server: RunningServer, kubectl: Kubectl) -> None:
    file = kubectl.file(manifest(server.sign(ahead=93)))
    review = json.loads(kubectl.run("create", "-f", file, "-o", "json"))
    assert review["status"]["authenticated"] is False
    assert review["metadata"]["annotations"]["leeway.dev/reason"] == "NotYetValid"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"tokn": "a"}, 'unknown field "tokn"'),
        ({"token": ["a"]}, 'got "array", expected "string"'),
        ({"token": "a", "audiences": "b"}, 'got "string", expected "array"'),
        ({"token": ""}, "token is required for TokenReview in authentication"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubectl_create_says_what_is_wrong(
    kubectl: Kubectl, version: str, spec: dict[str, object], words: str
) -> None:
    file = kubectl.file(manifest("", version) | {"spec": spec})
    assert words in kubectl.run("create", "-f", file, fails=True)


def test_kubectl_create_raw(server: RunningServer, kubectl: Kubectl) -> None:
    file = kubectl.folder / "raw.json"
    file.write_text(json.dumps({"spec": {"token": server.sign()}}))
    review = json.loads(kubectl.run("create", "--raw", REVIEWS, "-f", str(file)))
    assert review["status"]["authenticated"] is True


def test_kubectl_discovery(kubectl: Kubectl) -> None:
    resources = kubectl.run("api-resources", "--no-headers").split()
    assert resources == ["tokenreviews", VERSIONS[0], "false", "TokenReview"]
    assert kubectl.run("api-resources", "--verbs", "create", "-o", "name").split() == [
        "tokenreviews.authentication.k8s.io"
    ]
    assert kubectl.run("api-versions").split() == list(VERSIONS)
    assert "Server Version: v" in kubectl.run("version")
    explained = kubectl.run("explain", "tokenreview.spec")
    assert "audiences" in explained
    assert "token\t<string>" in explained
    assert kubectl.run("get", "--raw", "/readyz") == "ok"
    assert "the server doesn't have a resource type" in kubectl.run("get", "pods", fails=True)
