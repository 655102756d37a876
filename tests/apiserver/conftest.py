import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.differential.pair import running_etcd
from tests.e2e.harness import AUDIENCE, LEEWAY, RunningServer, start_server
from tests.secrets_made import token_made

from .cluster import (
    DEPLOY,
    ISSUER,
    LEGACY_ISSUER,
    NAMESPACE,
    READER,
    APIServer,
    Authority,
    kubeconfig,
    make_authority,
    program,
    running_api_server,
)

CONFIGURATIONS = ("no version flags", "version flags", "authorization config")


@pytest.fixture(scope="session")
def etcd_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program("kube-apiserver")
    with running_etcd(tmp_path_factory.mktemp("etcd")) as port:
        yield port


@pytest.fixture(scope="session")
def authority() -> Authority:
    return make_authority()


@pytest.fixture(scope="session")
def cluster(
    etcd_port: int, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[APIServer]:
    """Run a kube-apiserver that asks no webhook, with a namespace and a few service accounts."""
    folder = tmp_path_factory.mktemp("cluster") / "kube-apiserver"
    with running_api_server(folder, etcd_port, authority, {}) as api_server:
        api_server.run("create", "namespace", NAMESPACE)
        for name in ("reader", "other"):
            api_server.run("create", "serviceaccount", name, "-n", NAMESPACE)
        api_server.run("create", "configmap", "settings", "--from-literal=a=b", "-n", NAMESPACE)
        yield api_server


@pytest.fixture(scope="session")
def leeway(cluster: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run a Leeway that trusts the cluster's tokens and looks objects up in it.

    It calls the API server as the service account of ``deploy/kustomize`` and with its roles.
    """
    base = DEPLOY / "kustomize"
    for path in ("base/namespace.yaml", "base/serviceaccount.yaml"):
        cluster.run("apply", "-n", "leeway-system", "-f", str(base / path))
    cluster.run("apply", "-f", str(base / "components/objects-kubernetes/rbac.yaml"))
    token = cluster.run("create", "token", "leeway", "-n", "leeway-system", "--duration=8h")
    token_made(token.strip())

    def prepare(data_dir: Path) -> None:
        files = {
            "cluster-token": token.encode(),
            "cluster-ca.crt": cluster.ca_file.read_bytes(),
            "sa.pub": (cluster.folder / "sa.pub").read_bytes(),
            "cluster.kubeconfig": kubeconfig(
                cluster.url, cluster.authority, {"tokenFile": str(data_dir / "cluster-token")}
            ),
        }
        for name, data in files.items():
            (data_dir / name).touch(0o600)
            (data_dir / name).write_bytes(data)
        sections = {
            "leeway": {"expiry": "2s"},
            "objects": {"source": "kubernetes", "kubernetes": {"kubeconfig": "cluster.kubeconfig"}},
            "trustedIssuers": [
                {
                    "url": ISSUER,
                    "audiences": [AUDIENCE],
                    "keys": {
                        "discoveryURL": f"{cluster.url}/.well-known/openid-configuration",
                        "caFile": "cluster-ca.crt",
                        "tokenFile": "cluster-token",
                    },
                },
                {
                    "url": LEGACY_ISSUER,
                    "legacy": True,
                    "keys": {"publicKeyFiles": ["sa.pub"]},
                },
            ],
        }
        with (data_dir / "leeway.yaml").open("a") as file:
            file.write(yaml.safe_dump(sections))
        for line in (
            "role add reader",
            f"role grant-permission --prefix reader read /registry/configmaps/{NAMESPACE}/",
            f"user add {READER} --no-password",
            f"user grant-role {READER} reader",
        ):
            command = [LEEWAY, *line.split(), "--data-dir", str(data_dir)]
            subprocess.run(command, check=True, capture_output=True)

    server = start_server(tmp_path_factory.mktemp("leeway"), prepare)
    yield server
    server.stop()


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def asking(
    request: pytest.FixtureRequest,
    cluster: APIServer,
    etcd_port: int,
    leeway: RunningServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[APIServer]:
    """Run a second kube-apiserver of the cluster, which asks Leeway about tokens and access."""
    folder = tmp_path_factory.mktemp("asking")
    kubeconfigs = leeway.data_dir / "kubeconfig"
    flags = {"authentication-token-webhook-config-file": str(kubeconfigs / "tokenreview.yaml")}
    if request.param == "authorization config":
        flags["authorization-config"] = str(_authorization_config(folder, kubeconfigs))
        flags["authentication-token-webhook-version"] = "v1"
    else:
        flags["authorization-mode"] = "Node,RBAC,Webhook"
        flags["authorization-webhook-config-file"] = str(kubeconfigs / "subjectaccessreview.yaml")
    if request.param == "version flags":
        flags["authentication-token-webhook-version"] = "v1"
        flags["authorization-webhook-version"] = "v1"
        # The roles of a user are among its groups, so both answers have to be asked for again.
        flags["authentication-token-webhook-cache-ttl"] = "1s"
        flags["authorization-webhook-cache-authorized-ttl"] = "1s"
    with running_api_server(
        folder / "kube-apiserver", etcd_port, cluster.authority, flags
    ) as api_server:
        yield api_server


def _authorization_config(folder: Path, kubeconfigs: Path) -> Path:
    """Return the file that ``leeway-kind.sh`` writes, with the kubeconfig of this Leeway."""
    script = [str(DEPLOY / "kind" / "leeway-kind.sh"), "--dir", str(folder / "kind")]
    subprocess.run(
        [*script, "--authorizer"], env={"LEEWAY": LEEWAY, "PATH": "/usr/bin:/bin"},
        check=True, capture_output=True,
    )  # fmt: skip
    text = (folder / "kind" / "api-server" / "authorization.yaml").read_text()
    name = "subjectaccessreview.yaml"
    assert text.count(f"/etc/kubernetes/leeway/{name}") == 1
    path = folder / "authorization.yaml"
    path.write_text(text.replace(f"/etc/kubernetes/leeway/{name}", str(kubeconfigs / name)))
    return path
