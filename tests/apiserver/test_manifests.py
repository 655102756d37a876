"""What ``deploy/kustomize`` renders is accepted by a real API server."""

from collections import Counter

import pytest
import yaml

from .cluster import DEPLOY, APIServer

KUSTOMIZE = DEPLOY / "kustomize"
# Of a custom resource, which a bare API server does not serve.
SERVICE_MONITOR = 'no matches for kind "ServiceMonitor"'


@pytest.mark.parametrize(
    "folder",
    [
        "base",
        "etcd",
        "overlays/example",
        "overlays/existing-etcd",
        "static-pod",
        "static-pod-signer",
    ],
)
def test_manifests_are_accepted(cluster: APIServer, folder: str) -> None:
    # A dry run creates nothing, so later objects of the same run cannot refer to it.
    cluster.run("apply", "-f", str(KUSTOMIZE / "base" / "namespace.yaml"))
    documents = list(yaml.safe_load_all(cluster.run("kustomize", str(KUSTOMIZE / folder))))
    kinds = Counter(document["kind"].lower() for document in documents)
    kinds.pop("servicemonitor", None)
    done = cluster.kubectl("apply", "--dry-run=server", "-k", str(KUSTOMIZE / folder))
    assert [line for line in done.err.splitlines() if not is_expected(line)] == []
    lines = [line for line in done.out.splitlines() if line.endswith("(server dry run)")]
    assert Counter(line.partition("/")[0].partition(".")[0] for line in lines) == kinds


def is_expected(line: str) -> bool:
    expected = ("ensure CRDs", "Warning: resource namespaces")
    return SERVICE_MONITOR in line or line.startswith(expected)
