"""The same TokenRequests to kube-apiserver and to Leeway, which looks objects up in it."""

import json
from typing import Any

import pytest

from tests.e2e.harness import Answer, RunningServer
from tests.support import claims_in

from .cluster import NAMESPACE, APIServer

ACCOUNT = "reader"
NAMESPACED = f"/api/v1/namespaces/{NAMESPACE}"


def spec(**members: object) -> dict[str, object]:
    return {"spec": members}


def bound(**members: object) -> dict[str, object]:
    return spec(boundObjectRef=members)


def named(**members: object) -> dict[str, object]:
    return {"metadata": members}


SHORT = {"expirationSeconds": 599}
# Errors are reported in the order of this table: each body is also wrong in later rows.
BODIES: dict[str, object] = {
    "no-spec": {},
    "null-spec": {"spec": None},
    "empty-spec": {"spec": {}},
    "nulls": spec(audiences=None, boundObjectRef=None, expirationSeconds=None),
    "status": {"status": {"token": "of the client"}},
    "audiences": spec(audiences=["a", "b", "a", "café"]),
    "seconds": spec(expirationSeconds=600),
    "unknown-fields": {"spec": {"expirationSecond": 1, "boundObjectRef": {"kind": "X", "foo": 1}}},
    "unknown-field": spec(expirationSecond=1),
    "namespace": named(namespace="other", name="x", uid="x") | {"spec": SHORT},
    "name": named(name="x", uid="x") | {"spec": SHORT},
    "uid": named(uid="x") | {"spec": SHORT},
    "short": {"spec": SHORT | {"boundObjectRef": {"kind": "X"}}},
    "long": spec(expirationSeconds=(1 << 32) + 1, boundObjectRef={"kind": "X"}),
    "zero": spec(expirationSeconds=0),
    "kind": bound(kind="ConfigMap", apiVersion="v1", name=".."),
    "no-kind": bound(),
    "group": bound(kind="Pod", apiVersion="apps/v1", name="requested"),
    "group-without-version": bound(kind="Pod", apiVersion="v1/", name="requested"),
    "no-group-version": bound(kind="X", apiVersion="a/b/c", name="requested"),
    "no-object-name": bound(kind="Pod", uid="x"),
    "object-name-dots": bound(kind="Pod", name="..", uid="x"),
    "object-name-slash": bound(kind="Node", name="a/b%", uid="x"),
    "object-name-percent": bound(kind="Secret", name="a%b", uid="x"),
    "object-name-upper-case": bound(kind="Pod", name="Requested", uid="x"),
    "object-name-odd": bound(kind="Pod", name='a"\n\u200bé', uid="x"),
    "object-not-there": spec(boundObjectRef={"kind": "Pod", "name": "none"}, audiences=[""]),
    "pod-of-another": bound(kind="Pod", name="of-another", uid="x"),
    "object-uid": bound(kind="Pod", name="requested", uid="é"),
    "pod": bound(kind="Pod", apiVersion="v1", name="requested"),
    "pod-without-version": bound(kind="Pod", name="requested"),
    "pod-of-another-version": bound(kind="Pod", apiVersion="v2", name="requested"),
    "secret": bound(kind="Secret", apiVersion="a/b/c", name="requested"),
}
PATHS = {
    "no-account": (NAMESPACE, "none"),
    "upper-case": (NAMESPACE, "Reader"),
    "dots": (NAMESPACE, ".."),
    "percent": (NAMESPACE, "a%25b"),
    "NUL": (NAMESPACE, "a%00b"),
    "namespace-of-upper-case": ("Demo", ACCOUNT),
    "namespace-with-a-dot": ("a.b", ".."),
}


@pytest.fixture(scope="module")
def objects(cluster: APIServer) -> None:
    metadata = {"metadata": {"name": "requested"}}
    containers = [{"name": "c", "image": "registry.example/none"}]
    cluster.create(f"{NAMESPACED}/secrets", metadata)
    for name, account in (("requested", ACCOUNT), ("of-another", "other")):
        pod = {"serviceAccountName": account, "containers": containers}
        cluster.create(f"{NAMESPACED}/pods", {"metadata": {"name": name}, "spec": pod})


def path_of(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"


def told(answer: Answer) -> Any:
    """Return what a client learns, but for the token, the times and the keys."""
    value = answer.json
    if value["kind"] == "Status":
        return answer.status, value["reason"], value["message"], value.get("details")
    claims = claims_in(value["status"]["token"])
    lives = claims["exp"] - claims["iat"]
    private = claims["kubernetes.io"]
    metadata = {name: value["metadata"][name] for name in ("name", "namespace", "uid")}
    warning = answer.headers.get("warning")
    return answer.status, value["spec"], metadata, warning, claims["aud"], lives, private


def ask_both(cluster: APIServer, leeway: RunningServer, path: str, body: object) -> None:
    expected = cluster.request("POST", path, body)
    root = leeway.context("root")
    found = leeway.request("POST", path, json.dumps(body).encode(), context=root)
    if found.status == 201:
        leeway.tokens.append(found.json["status"]["token"])
    assert told(found) == told(expected)


@pytest.mark.fault(10, 62)
@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_has_the_answer_of_kube_apiserver(
    cluster: APIServer, leeway: RunningServer, body: object
) -> None:
    ask_both(cluster, leeway, path_of(NAMESPACE, ACCOUNT), body)


@pytest.mark.fault(62)
@pytest.mark.parametrize(("namespace", "name"), PATHS.values(), ids=PATHS)
def test_a_path_has_the_answer_of_kube_apiserver(
    cluster: APIServer, leeway: RunningServer, namespace: str, name: str
) -> None:
    ask_both(cluster, leeway, path_of(namespace, name), {})
