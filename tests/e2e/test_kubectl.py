"""kubectl against a running server prints what it prints against an API server."""

import json
import re

import pytest
import yaml

from tests.support import claims_in

from .auth import as_root, grant
from .harness import AUDIENCE, RunningServer
from .kubectl import Kubectl, Printed

AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io/v1", "authorization.k8s.io/v1"
VIEWER = "viewer"
ACCOUNT = "system:serviceaccount:argo-run:loofah"


@pytest.fixture(scope="module")
def server(server: RunningServer) -> RunningServer:
    """Give a viewer some objects, and the node n-1."""
    as_root(
        server,
        ("role/add", {"name": "viewers"}),
        *(
            ("role/grant", grant("viewers", kind, key, end))
            for kind, key, end in (
                ("READ", b"/registry/pods/demo/", b"/registry/pods/demo0"),
                ("READ", b"/registry/apps/deployments/demo/", b"/registry/apps/deployments/demo0"),
                ("READWRITE", b"/registry/pods:exec/demo/p-0", b""),
                ("READ", b"/registry/nodes/n-1", b""),
                ("READ", b"/registry/namespaces/demo", b""),
                ("READ", b"/healthz", b""),
                ("READ", b"/metrics/", b"/metrics0"),
            )
        ),
        ("user/add", {"name": VIEWER, "options": {"no_password": True}}),
        ("user/grant", {"user": VIEWER, "role": "viewers"}),
    )
    return server


def test_whoami(kubectl: Kubectl) -> None:
    assert kubectl.prints("auth", "whoami") == Printed(
        0,
        "ATTRIBUTE   VALUE\nUsername    root\nGroups      [system:authenticated]\n",
        "",
    )
    review = json.loads(kubectl.run("auth", "whoami", "-o", "json"))
    assert review == {
        "kind": "SelfSubjectReview",
        "apiVersion": AUTHENTICATION,
        "metadata": {"creationTimestamp": None},
        "status": {"userInfo": {"username": "root", "groups": ["system:authenticated"]}},
    }


def test_whoami_as_another(kubectl: Kubectl) -> None:
    acting = ("--as", "alice", "--as-group", "devs", "--as-uid", "u-1")
    assert kubectl.run("auth", "whoami", *acting) == (
        "ATTRIBUTE   VALUE\n"
        "Username    alice\n"
        "UID         u-1\n"
        "Groups      [devs system:authenticated]\n"
    )
    assert kubectl.run("auth", "whoami", "--as", ACCOUNT, "-o", "jsonpath={..groups}") == (
        '["system:serviceaccounts","system:serviceaccounts:argo-run","system:authenticated"]'
    )


def test_whoami_with_a_token(server: RunningServer, kubectl: Kubectl) -> None:
    token = server.sign("builder")
    # Without the kubeconfig's certificate, which would take precedence over the token.
    flags = ["--cache-dir", str(kubectl.cache), "--kubeconfig", "/dev/null"]
    flags += ["--server", f"https://127.0.0.1:{server.port}"]
    flags += ["--certificate-authority", str(server.data_dir / "tls" / "ca.crt")]
    kubectl.command = [kubectl.command[0], *flags, "--token", token]
    lines = kubectl.run("auth", "whoami").splitlines()
    assert [line.split(maxsplit=1) for line in lines[1:3]] == [
        ["Username", "system:serviceaccount:demo:builder"],
        ["UID", claims_in(token)["kubernetes.io"]["serviceaccount"]["uid"]],
    ]
    assert "authentication.kubernetes.io/credential-id" in lines[-1]


def test_create_token(server: RunningServer, kubectl: Kubectl) -> None:
    arguments = ("create", "token", "loofah", "-n", "argo-run", "--audience", "vault")
    code, out, err = kubectl.prints(*arguments, "--duration", "20m")
    server.tokens.append(out.strip())
    assert (code, err) == (0, "")
    # The token alone, on a line.
    token = out.removesuffix("\n")
    claims = claims_in(token)
    assert (claims["aud"], claims["sub"]) == (["vault"], ACCOUNT)
    assert claims["exp"] - claims["iat"] == 1200
    assert server.post_review(token, ["vault"]).json["status"]["authenticated"] is True
    assert server.post_review(token).json["status"]["authenticated"] is False


def test_create_token_for_too_long(server: RunningServer, kubectl: Kubectl) -> None:
    code, out, err = kubectl.prints("create", "token", "loofah", "--duration", "48h")
    server.tokens.append(out.strip())
    assert (code, err) == (
        0,
        "Warning: requested expiration of 172800 seconds shortened to 86400 seconds\n",
    )
    claims = claims_in(out)
    assert claims["exp"] - claims["iat"] == 86400
    assert claims["aud"] == [AUDIENCE]


INVALID = 'error: failed to create token: TokenRequest.authentication.k8s.io "" is invalid: '


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ("loofah", "--duration", "5m"),
            f"{INVALID}spec.expirationSeconds: Invalid value: 300: may not specify a duration less "
            "than 10 minutes\n",
        ),
        (
            ("loofah", "--duration", "1200000h"),
            f"{INVALID}spec.expirationSeconds: Invalid value: 4320000000: may not specify a "
            "duration larger than 2^32 seconds\n",
        ),
        (
            ("loofah", "--bound-object-kind", "Pod", "--bound-object-name", "p-0"),
            f"{INVALID}spec.boundObjectRef.uid: Required value: no source of objects is configured "
            "that it could be looked up in\n",
        ),
        (
            ("loofah", "-n", "argo-run", "--as", VIEWER),
            f"error: failed to create token: user '{VIEWER}' may not write "
            "/leeway/serviceaccounts/argo-run/loofah/token; grant it with `leeway role "
            "grant-permission` and `leeway user grant-role`\n",
        ),
    ],
)
def test_create_token_prints_the_reason(
    kubectl: Kubectl, arguments: tuple[str, ...], error: str
) -> None:
    assert kubectl.prints("create", "token", *arguments) == Printed(1, "", error)


NOT_NAMESPACED = "Warning: resource '{}' is not namespace scoped\n\n"
UNKNOWN = "Warning: the server doesn't have a resource type 'widgets'\n\n"


@pytest.mark.parametrize(
    ("question", "allowed", "warning"),
    [
        ("get pods -n demo", True, ""),
        ("get po/p-0 -n demo", True, ""),
        ("list pods -n demo", True, ""),
        ("list pods -n prod", False, ""),
        ("list pods -A", False, ""),
        ("delete pods/p-0 -n demo", False, ""),
        ("get pods/p-0 --subresource log -n demo", False, ""),
        ("create pods/p-0 --subresource exec -n demo", True, ""),
        ("create pods/p-1 --subresource exec -n demo", False, ""),
        # Its group is found in discovery.
        ("get deployments -n demo", True, ""),
        ("get deploy.apps -n demo", True, ""),
        ("update deployments -n demo", False, ""),
        ("get nodes/n-1", True, NOT_NAMESPACED.format("nodes")),
        ("get nodes/n-2", False, NOT_NAMESPACED.format("nodes")),
        ("list nodes", False, NOT_NAMESPACED.format("nodes")),
        ("get ns/demo", True, NOT_NAMESPACED.format("namespaces")),
        ("get ns/demo -n prod", True, NOT_NAMESPACED.format("namespaces")),
        ("get ns/prod -n demo", False, NOT_NAMESPACED.format("namespaces")),
        ("get widgets -n demo", False, UNKNOWN),
        ("* pods -n demo", False, ""),
        ("get * -n demo", False, ""),
        ("* *", False, ""),
        ("get /healthz", True, ""),
        ("post /healthz", False, ""),
        ("get /metrics/a", True, ""),
        ("get /metrics/*", True, ""),
        ("get /*", False, ""),
    ],
)
def test_can_i_as_another(kubectl: Kubectl, question: str, allowed: bool, warning: str) -> None:
    printed = kubectl.prints("auth", "can-i", *question.split(" "), "--as", VIEWER)
    # A plain no: an API server gives no reason after a dash.
    assert printed == Printed(int(not allowed), "yes\n" if allowed else "no\n", warning)


@pytest.mark.parametrize("question", ["* *", "get pods -A", "post /anything"])
def test_root_can(kubectl: Kubectl, question: str) -> None:
    assert kubectl.prints("auth", "can-i", *question.split()) == Printed(0, "yes\n", "")
    quiet = kubectl.prints("auth", "can-i", *question.split(), "--quiet")
    assert quiet == Printed(0, "", "")


def subject_review(**spec: object) -> dict[str, object]:
    return {"apiVersion": AUTHORIZATION, "kind": "SubjectAccessReview", "spec": spec}


LIST_PODS = {"verb": "list", "resource": "pods", "namespace": "demo"}
TEAM = {"verb": "delete", "resource": "pods", "namespace": "demo"}


@pytest.mark.parametrize(
    ("manifest", "created", "status"),
    [
        (
            subject_review(user=VIEWER, resourceAttributes=LIST_PODS),
            "subjectaccessreview.authorization.k8s.io/<unknown> created\n",
            {"allowed": True, "reason": "granted by role viewers"},
        ),
        (
            subject_review(user=VIEWER, groups=["a"], resourceAttributes=TEAM),
            "subjectaccessreview.authorization.k8s.io/<unknown> created\n",
            {
                "allowed": False,
                "reason": "no role of viewer grants WRITE on [/registry/pods/demo/, "
                "/registry/pods/demo0)",
            },
        ),
        (
            subject_review(groups=["a"], nonResourceAttributes={"verb": "get", "path": "/healthz"}),
            "subjectaccessreview.authorization.k8s.io/<unknown> created\n",
            {
                "allowed": False,
                "reason": "no role of these groups grants READ on /healthz",
            },
        ),
        (
            {
                "apiVersion": AUTHORIZATION,
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": LIST_PODS},
            },
            "selfsubjectaccessreview.authorization.k8s.io/<unknown> created\n",
            {"allowed": True, "reason": "granted by role root"},
        ),
        (
            {"apiVersion": AUTHENTICATION, "kind": "SelfSubjectReview"},
            "selfsubjectreview.authentication.k8s.io/<unknown> created\n",
            {"userInfo": {"username": "root", "groups": ["system:authenticated"]}},
        ),
        (
            {
                "apiVersion": "leeway.dev/v1",
                "kind": "RangeAccessReview",
                "spec": {"user": VIEWER, "permission": "READ", "key": "L2hlYWx0aHo="},
            },
            "rangeaccessreview.leeway.dev/<unknown> created\n",
            None,
        ),
    ],
)
def test_create_reviews(
    kubectl: Kubectl, manifest: dict[str, object], created: str, status: object
) -> None:
    file = kubectl.file(manifest)
    assert kubectl.prints("create", "-f", file) == Printed(0, created, "")
    review = yaml.safe_load(kubectl.run("create", "-f", file, "-o", "yaml"))
    assert review["kind"] == manifest["kind"]
    if status is None:
        assert review["status"]["allowed"] is True
        return
    assert review["status"] == status
    assert review.get("spec") == manifest.get("spec")


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (
            {"user": "a"},
            'The SubjectAccessReview "" is invalid: spec.resourceAttributes: Invalid value: null: '
            "exactly one of nonResourceAttributes or resourceAttributes must be specified\n",
        ),
        (
            {},
            'The SubjectAccessReview "" is invalid: \n'
            "* spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes "
            "or resourceAttributes must be specified\n"
            '* spec.user: Invalid value: "": at least one of user or group must be specified\n',
        ),
    ],
)
def test_create_prints_the_error(kubectl: Kubectl, spec: dict[str, object], error: str) -> None:
    file = kubectl.file(subject_review(**spec))
    assert kubectl.prints("create", "-f", file) == Printed(1, "", error)


def test_create_needs_permission(kubectl: Kubectl) -> None:
    file = kubectl.file(subject_review(user=VIEWER, resourceAttributes=LIST_PODS))
    error = kubectl.run("create", "-f", file, "--as", VIEWER, fails=True)
    assert error.startswith("Error from server (Forbidden): ")
    assert f"user '{VIEWER}' may not write /leeway/subjectaccessreviews" in error


def test_can_i_list(server: RunningServer, kubectl: Kubectl) -> None:
    as_root(
        server,
        ("role/add", {"name": "listed"}),
        ("role/grant", grant("listed", "READ", b"/registry/pods/demo/", b"/registry/pods/demo0")),
        ("role/grant", grant("listed", "WRITE", b"/registry/pods:exec/demo/p-0")),
        ("role/grant", grant("listed", "READ", b"/metrics")),
        ("user/add", {"name": "lister", "options": {"no_password": True}}),
        ("user/grant", {"user": "lister", "role": "listed"}),
    )
    rows = [
        ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"],
        ["pods/exec", "[]", "[p-0]", "[update patch delete]"],
        ["pods", "[]", "[]", "[get list watch]"],
        ["", "[/metrics]", "[]", "[get]"],
        ["", "[/metrics]", "[]", "[head]"],
    ]
    out = kubectl.run("auth", "can-i", "--list", "-n", "demo", "--as", "lister")
    assert sorted(re.split(r" {2,}", line) for line in out.splitlines()) == sorted(rows)
    assert "*.*" in kubectl.run("auth", "can-i", "--list")
    assert "pods" not in kubectl.run("auth", "can-i", "--list", "-n", "other", "--as", "lister")
