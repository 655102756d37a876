"""Bound objects, looked up at a real API server: ``objects.source: kubernetes``."""

import subprocess
from collections.abc import Mapping

import pytest

from tests.e2e.harness import LEEWAY, RunningServer
from tests.secrets_made import token_made
from tests.support import wait_until

from .cluster import NAMESPACE, APIServer

FINALIZER = "leeway.dev/test"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
ACCOUNTS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
NODES = "/api/v1/nodes"


def named(name: str, **more: object) -> dict[str, object]:
    return {"metadata": {"name": name, **more}}


def pod(name: str, account: str = "reader", **metadata: object) -> dict[str, object]:
    containers = [{"name": "c", "image": "registry.example/none"}]
    return named(name, **metadata) | {
        "spec": {"serviceAccountName": account, "containers": containers}
    }


def token_for(leeway: RunningServer, account: str, *bound: str) -> str:
    """Create a token with ``leeway token create``."""
    command = [LEEWAY, "token", "create", account, "-n", NAMESPACE, *bound]
    done = subprocess.run(
        [*command, "--data-dir", leeway.data_dir], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    token_made(done.stdout.strip())
    return done.stdout.strip()


def reason(leeway: RunningServer, token: str) -> str:
    """Review a token: the reason of the refusal, empty where it is accepted."""
    review = leeway.post_review(token).json
    found: Mapping[str, str] = review["metadata"].get("annotations", {})
    accepted: bool = review["status"]["authenticated"]
    assert accepted != bool(found.get("leeway.dev/reason")), review
    return found.get("leeway.dev/reason", "")


def bound_token(cluster: APIServer, leeway: RunningServer, kind: str, name: str, uid: str) -> str:
    account = cluster.request("GET", f"{ACCOUNTS}/reader").json
    return token_for(
        leeway,
        "reader",
        f"--uid={account['metadata']['uid']}",
        f"--bound-object-kind={kind}",
        f"--bound-object-name={name}",
        f"--bound-object-uid={uid}",
    )


def delete(cluster: APIServer, path: str) -> None:
    answer = cluster.request("DELETE", path, {"gracePeriodSeconds": 0})
    assert answer.status in (200, 202), answer.body


@pytest.mark.parametrize(
    ("kind", "collection", "body"),
    [
        pytest.param("Pod", PODS, pod("bound"), id="pod"),
        pytest.param("Secret", SECRETS, named("bound"), id="secret"),
        pytest.param("Node", NODES, named("bound"), id="node"),
    ],
)
def test_a_bound_object_is_deleted_and_recreated(
    cluster: APIServer,
    leeway: RunningServer,
    kind: str,
    collection: str,
    body: Mapping[str, object],
) -> None:
    uid = cluster.create(collection, body)
    token = bound_token(cluster, leeway, kind, "bound", uid)
    wait_until(lambda: reason(leeway, token) == "")
    delete(cluster, f"{collection}/bound")
    wait_until(lambda: reason(leeway, token) == "BoundObjectGone")
    again = cluster.create(collection, body)
    assert again != uid
    wait_until(lambda: reason(leeway, token) == "UIDMismatch")
    token = bound_token(cluster, leeway, kind, "bound", again)
    wait_until(lambda: reason(leeway, token) == "")
    delete(cluster, f"{collection}/bound")


def test_a_service_account_is_deleted_and_recreated(
    cluster: APIServer, leeway: RunningServer
) -> None:
    uid = cluster.create(ACCOUNTS, named("passing"))
    token = token_for(leeway, "passing", f"--uid={uid}")
    wait_until(lambda: reason(leeway, token) == "")
    delete(cluster, f"{ACCOUNTS}/passing")
    wait_until(lambda: reason(leeway, token) == "ServiceAccountGone")
    cluster.create(ACCOUNTS, named("passing"))
    wait_until(lambda: reason(leeway, token) == "UIDMismatch")
    delete(cluster, f"{ACCOUNTS}/passing")


def test_an_object_that_a_finalizer_holds_counts_until_the_leeway_is_over(
    cluster: APIServer, leeway: RunningServer
) -> None:
    """Its ``deletionTimestamp`` counts, not that it still exists."""
    uid = cluster.create(PODS, pod("held", finalizers=[FINALIZER]))
    token = bound_token(cluster, leeway, "Pod", "held", uid)
    wait_until(lambda: reason(leeway, token) == "")
    delete(cluster, f"{PODS}/held")
    held = cluster.request("GET", f"{PODS}/held").json
    assert held["metadata"]["deletionTimestamp"]
    wait_until(lambda: reason(leeway, token) == "BoundObjectGone")
    assert cluster.request("GET", f"{PODS}/held").status == 200
    cluster.run(
        "patch", "pod", "held", "-n", NAMESPACE, "--type=merge", "-p",
        '{"metadata":{"finalizers":null}}',
    )  # fmt: skip
    wait_until(lambda: cluster.request("GET", f"{PODS}/held").status == 404)
    assert reason(leeway, token) == "BoundObjectGone"
