"""Clients in use: the kubernetes package, kubectl, curl, kube-apiserver."""

import base64
import json
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
from kubernetes.dynamic import DynamicClient

from .auth import as_root, ask, grant
from .harness import AUDIENCE, HOST, LEEWAY, REVIEWS, RunningServer, review_of
from .kubectl import Kubectl, program

AUTHORIZATION = "authorization.k8s.io/v1"
VERSIONS = ("authentication.k8s.io/v1", "authentication.k8s.io/v1beta1")


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


def create(api: kubernetes.AuthenticationV1Api, token: str, **members: Any) -> Any:
    """Create a TokenReview; every member of the answer is optional to the client's types."""
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
        answer: Any = api.create_token_review(review, _preload_content=False)
        assert answer.status == 201
        assert json.loads(answer.data)["status"]["authenticated"] is authenticated


def test_kubernetes_client_and_a_bad_review(api: kubernetes.AuthenticationV1Api) -> None:
    with pytest.raises(kubernetes.ApiException) as caught:
        create(api, "")
    assert caught.value.status == 400
    assert json.loads(caught.value.body or "")["message"].startswith("token is required")


def test_kubernetes_client_asks_who_it_is(api: kubernetes.AuthenticationV1Api) -> None:
    review: Any = api.create_self_subject_review(kubernetes.V1SelfSubjectReview())
    assert (review.kind, review.api_version) == ("SelfSubjectReview", VERSIONS[0])
    user = review.status.user_info
    assert user.username in ("root", "kube-apiserver")
    assert (user.groups, user.uid, user.extra) == (["system:authenticated"], None, None)


def username(api: kubernetes.AuthenticationV1Api) -> str:
    review: Any = api.create_self_subject_review(kubernetes.V1SelfSubjectReview())
    return str(review.status.user_info.username)


def test_kubernetes_client_asks_for_its_permissions(api: kubernetes.AuthenticationV1Api) -> None:
    is_root = "root" in username(api)
    authorization = kubernetes.AuthorizationV1Api(api.api_client)
    pods = kubernetes.V1ResourceAttributes(verb="list", resource="pods", namespace="demo")
    spec = kubernetes.V1SelfSubjectAccessReviewSpec(resource_attributes=pods)
    review: Any = authorization.create_self_subject_access_review(
        kubernetes.V1SelfSubjectAccessReview(spec=spec)
    )
    assert (review.kind, review.api_version) == ("SelfSubjectAccessReview", AUTHORIZATION)
    assert (review.status.allowed, review.status.denied) == (is_root, None)
    path = kubernetes.V1NonResourceAttributes(verb="post", path="/leeway/tokenreviews")
    for user, allowed in (("kube-apiserver", True), ("root", False)):
        subject = kubernetes.V1SubjectAccessReviewSpec(non_resource_attributes=path, user=user)
        review = authorization.create_subject_access_review(
            kubernetes.V1SubjectAccessReview(spec=subject)
        )
        assert (review.status.allowed, review.status.denied) == (allowed, None)
        assert review.spec.user == user
    with pytest.raises(kubernetes.ApiException) as caught:
        authorization.create_subject_access_review(
            kubernetes.V1SubjectAccessReview(spec=kubernetes.V1SubjectAccessReviewSpec())
        )
    assert caught.value.status == 422
    causes = json.loads(caught.value.body or "")["details"]["causes"]
    assert [cause["field"] for cause in causes] == ["spec.resourceAttributes", "spec.user"]


def test_kubernetes_client_asks_for_a_token(
    server: RunningServer, api: kubernetes.AuthenticationV1Api
) -> None:
    core = kubernetes.CoreV1Api(api.api_client)
    spec = kubernetes.V1TokenRequestSpec(audiences=[AUDIENCE], expiration_seconds=1200)
    request = kubernetes.AuthenticationV1TokenRequest(spec=spec)
    if "kube-apiserver" in username(api):
        with pytest.raises(kubernetes.ApiException) as caught:
            core.create_namespaced_service_account_token("loofah", "argo-run", request)
        assert caught.value.status == 403
        return
    answer: Any = core.create_namespaced_service_account_token("loofah", "argo-run", request)
    server.tokens.append(answer.status.token)
    assert (answer.metadata.name, answer.metadata.namespace) == ("loofah", "argo-run")
    lifetime = answer.status.expiration_timestamp - answer.metadata.creation_timestamp
    assert lifetime.total_seconds() == 1200
    review = create(api, answer.status.token)
    assert review.status.user.username == "system:serviceaccount:argo-run:loofah"


def test_kubernetes_client_asks_for_the_version(api: kubernetes.AuthenticationV1Api) -> None:
    version = kubernetes.VersionApi(api.api_client).get_code()
    assert version.git_version.startswith("v")


def test_kubernetes_client_discovers(api: kubernetes.AuthenticationV1Api) -> None:
    """The client adds a slash at the end."""
    client = api.api_client
    assert kubernetes.CoreApi(client).get_api_versions().versions == ["v1"]
    groups = {group.name for group in kubernetes.ApisApi(client).get_api_versions().groups}
    assert {"authentication.k8s.io", "authorization.k8s.io", "leeway.dev", "apps"} <= groups
    group = kubernetes.AuthenticationApi(client).get_api_group()
    assert [version.group_version for version in group.versions] == list(VERSIONS)
    resources = api.get_api_resources()
    assert resources.group_version == VERSIONS[0]
    assert {found.name for found in resources.resources} == {"tokenreviews", "selfsubjectreviews"}
    core = kubernetes.CoreV1Api(client).get_api_resources()
    assert "serviceaccounts/token" in {found.name for found in core.resources}
    with pytest.raises(kubernetes.ApiException) as caught:
        kubernetes.InternalApiserverApi(client).get_api_group()
    assert caught.value.status == 404


def test_kubernetes_client_finds_what_to_create(
    server: RunningServer, api: kubernetes.AuthenticationV1Api, tmp_path: Path
) -> None:
    dynamic = DynamicClient(api.api_client, cache_file=str(tmp_path / "discovered.json"))
    reviews = dynamic.resources.get(api_version=VERSIONS[0], kind="TokenReview")
    answer = reviews.create(body=manifest(server.sign("builder")))
    assert answer.status.user.username == "system:serviceaccount:demo:builder"


def post_as_kube_apiserver(server: RunningServer, kubeconfig: str, review: object) -> Any:
    """Post a review as client-go does with a kubeconfig; return the answer.

    ``review`` is JSON, or its bytes.
    """
    document = yaml.safe_load((server.data_dir / "kubeconfig" / kubeconfig).read_text())
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
        certificate, key = files
        context.load_cert_chain(certificate, key)
    headers = {
        "Accept": "application/json, */*",
        "Content-Type": "application/json",
        "User-Agent": "kube-apiserver/v1.36.0 (linux/amd64) kubernetes/0000000",
        "Accept-Encoding": "gzip",
    }
    path = f"{url.path}?timeout=30s"
    body = review if isinstance(review, bytes) else json.dumps(review).encode()
    answer = server.request("POST", path, body, headers, context)
    assert answer.status == 201, answer
    return answer.json


def test_kube_apiserver_authenticates(server: RunningServer) -> None:
    """As k8s.io/apiserver/plugin/pkg/authenticator/token/webhook asks."""
    review = review_of(server.sign(), [AUDIENCE])
    answer = post_as_kube_apiserver(server, "tokenreview.yaml", review)
    assert answer["status"]["authenticated"] is True


@pytest.mark.fault(53)
def test_root_of_a_cluster_is_not_leeways_root(server: RunningServer) -> None:
    resource = {"resourceAttributes": {"verb": "delete", "resource": "nodes", "name": "n"}}
    review = {"spec": resource | {"user": "root", "groups": ["system:authenticated"]}}
    status = post_as_kube_apiserver(server, "subjectaccessreview.yaml", review)["status"]
    assert status["allowed"] is False
    assert "authorizer.allowRoot" in status["reason"]
    # The certificate of Leeway's root, and questions about Leeway's own users.
    path = f"/apis/{AUTHORIZATION}/selfsubjectaccessreviews"
    own = server.post(path, {"spec": resource}, server.context("root"))
    assert own.json["status"] == {"allowed": True, "reason": "granted by role root"}
    assert ask(server, "root", "WRITE", b"/registry/nodes/n").json["status"]["allowed"] is True


# The bytes of kube-apiserver 1.36 without version flags; up to 1.33 with the time that is null.
@pytest.mark.bad_input(29)
@pytest.mark.fault(1)
@pytest.mark.parametrize("metadata", ["{}", '{"creationTimestamp":null}'])
def test_token_review_of_kube_apiserver_without_version_flags(
    server: RunningServer, metadata: str
) -> None:
    """v1beta1 to the v1 URL that the kubeconfig names: answered, as v1beta1."""
    kind, version = "TokenReview", "authentication.k8s.io/v1beta1"
    spec = f'{{"token":"{server.sign()}","audiences":["{AUDIENCE}"]}}'
    body = (
        f'{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"spec":{spec},'
        '"status":{"user":{}}}\n'
    )
    answer = post_as_kube_apiserver(server, "tokenreview.yaml", body.encode())
    assert (answer["kind"], answer["apiVersion"]) == (kind, version)
    assert answer["status"]["authenticated"] is True


@pytest.mark.bad_input(29)
@pytest.mark.fault(1)
def test_access_review_of_kube_apiserver_without_version_flags(
    server: RunningServer,
) -> None:
    """Groups are ``group`` in v1beta1."""
    as_root(
        server,
        ("role/add", {"name": "beta"}),
        ("role/grant", grant("beta", "READ", b"/registry/pods/demo/", b"/registry/pods/demo0")),
    )
    subprocess.run(
        [LEEWAY, "group", "grant-role", "beta-readers", "beta", "--data-dir", server.data_dir],
        check=True,
        capture_output=True,
    )
    kind, version = "SubjectAccessReview", "authorization.k8s.io/v1beta1"
    attributes = '{"namespace":"demo","verb":"list","version":"v1","resource":"pods"}'
    for group, allowed in (("beta-readers", True), ("others", False)):
        spec = (
            f'{{"resourceAttributes":{attributes},"user":"jane","group":["{group}"],'
            '"extra":{"authentication.kubernetes.io/credential-id":["JTI=1"]},"uid":"66bff4eb"}'
        )
        body = (
            f'{{"kind":"{kind}","apiVersion":"{version}","metadata":{{}},"spec":{spec},'
            '"status":{"allowed":false}}\n'
        )
        answer = post_as_kube_apiserver(server, "subjectaccessreview.yaml", body.encode())
        assert (answer["kind"], answer["apiVersion"]) == (kind, version)
        assert answer["status"]["allowed"] is allowed
        assert answer["spec"] == json.loads(spec)


def test_kube_apiserver_authorizes(server: RunningServer) -> None:
    """As k8s.io/apiserver/plugin/pkg/authorizer/webhook asks, to list and for one object."""
    reader, span = "system:serviceaccount:demo:reader", b"/registry/pods/demo/"
    as_root(
        server,
        ("role/add", {"name": "pod-readers"}),
        ("role/grant", grant("pod-readers", "READ", span, span[:-1] + b"0")),
        ("user/add", {"name": reader, "options": {"no_password": True}}),
        ("user/grant", {"user": reader, "role": "pod-readers"}),
    )
    pods = {"version": "v1", "resource": "pods"}
    for attributes, allowed in (
        ({"verb": "list", "namespace": "demo"} | pods, True),
        ({"verb": "get", "namespace": "demo", "name": "p-0"} | pods, True),
        ({"verb": "delete", "namespace": "demo", "name": "p-0"} | pods, False),
        ({"verb": "get", "namespace": "demo", "name": "p-0", "subresource": "log"} | pods, False),
        ({"verb": "list"} | pods, False),
        ({"verb": "list", "namespace": "prod"} | pods, False),
    ):
        review = {
            "kind": "SubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {"creationTimestamp": None},
            "spec": {
                "resourceAttributes": attributes,
                "user": reader,
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": {"authentication.kubernetes.io/credential-id": ["JTI=1"]},
                "uid": "66bff4eb",
            },
            "status": {"allowed": False},
        }
        status = post_as_kube_apiserver(server, "subjectaccessreview.yaml", review)["status"]
        assert status["allowed"] is allowed, attributes
        # Only an authorizer that overrides all others may deny.
        assert "denied" not in status
        assert (status["reason"] == "granted by role pod-readers") is allowed


def test_curl(server: RunningServer, tmp_path: Path) -> None:
    review = tmp_path / "review.json"
    review.write_text(json.dumps(manifest(server.sign())))
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
def test_kubectl_create_prints_the_error(
    kubectl: Kubectl, version: str, spec: dict[str, object], words: str
) -> None:
    file = kubectl.file(manifest("", version) | {"spec": spec})
    assert words in kubectl.run("create", "-f", file, fails=True)


def test_kubectl_create_raw(server: RunningServer, kubectl: Kubectl) -> None:
    file = kubectl.folder / "raw.json"
    file.write_text(json.dumps(manifest(server.sign())))
    review = json.loads(kubectl.run("create", "--raw", REVIEWS, "-f", str(file)))
    assert review["status"]["authenticated"] is True


def test_kubectl_discovery(kubectl: Kubectl) -> None:
    resources = kubectl.run("api-resources", "--no-headers")
    assert [line.split() for line in resources.splitlines()] == [
        ["selfsubjectreviews", VERSIONS[0], "false", "SelfSubjectReview"],
        ["tokenreviews", VERSIONS[0], "false", "TokenReview"],
        ["selfsubjectaccessreviews", AUTHORIZATION, "false", "SelfSubjectAccessReview"],
        ["selfsubjectrulesreviews", AUTHORIZATION, "false", "SelfSubjectRulesReview"],
        ["subjectaccessreviews", AUTHORIZATION, "false", "SubjectAccessReview"],
        ["rangeaccessreviews", "leeway.dev/v1", "false", "RangeAccessReview"],
    ]
    assert {*VERSIONS, AUTHORIZATION, "v1", "apps/v1"} <= {*kubectl.run("api-versions").split()}
    assert "Server Version: v" in kubectl.run("version")
    explained = kubectl.run("explain", "tokenreview.spec")
    assert "audiences" in explained
    assert "token\t<string>" in explained
    assert kubectl.run("get", "--raw", "/readyz") == "ok"
    # It is known, so that auth can-i knows its group and scope, but has no objects to get.
    for name in ("pods", "po", "deploy", "nodes"):
        assert kubectl.run("get", name, fails=True).startswith("Error from server (NotFound)")
    assert "the server doesn't have a resource type" in kubectl.run("get", "nosuch", fails=True)
