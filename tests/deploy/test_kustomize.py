"""deploy/kustomize: every folder renders, is valid, and runs."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.deploy.deploy_schemas import (
    DEPLOY,
    SERVICE_MONITOR,
    as_json,
    assert_container_restricted,
    assert_fields,
    assert_restricted,
    assert_valid,
    documents,
    latest_versions,
)
from tests.deploy.deployed import (
    assert_signer_runs,
    created_token,
    files_in,
    loopback_addresses,
    make_certs,
    members_running,
    probe_status,
    review_with,
    run_copy,
    serving,
)
from tests.deploy.signer_patch import SOCKET, operations
from tests.e2e.harness import LEEWAY, RunningServer
from tests.support import wait_until
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER

KUSTOMIZE = DEPLOY / "kustomize"
FOLDERS = [
    str(path.parent.relative_to(KUSTOMIZE))
    for path in sorted(KUSTOMIZE.rglob("kustomization.yaml"))
    if path.parent.parent.name != "components"
]
# The other kinds that a command of the pages makes.
SECRETS = {
    "leeway-tls": ("tls/server.crt", "tls/server.key", "tls/ca.crt"),
    "leeway-etcd-client": ("tls/etcd-ca.crt", "tls/etcd-client.crt", "tls/etcd-client.key"),
    "leeway-encryption-key": ("encryption.key",),
}
REPLICAS = ["base", "overlays/example", "overlays/existing-etcd"]

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@cache
def render(folder: Path) -> tuple[Any, ...]:
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(documents(done.stdout))


def rendered(folder: str) -> tuple[Any, ...]:
    return render(KUSTOMIZE / folder)


def only(folder: str, kind: str) -> Any:
    (found,) = [document for document in rendered(folder) if document["kind"] == kind]
    return found


def pod_spec(folder: str) -> Any:
    for document in rendered(folder):
        if document["kind"] == "Deployment":
            return document["spec"]["template"]["spec"]
        if document["kind"] == "Pod":
            return document["spec"]
    raise AssertionError(folder)


def test_all_folders_are_tested() -> None:
    expected = {"base", "etcd", *REPLICAS, "static-pod", "static-pod-signer"}
    assert set(FOLDERS) == expected
    assert len(latest_versions()) == 3


@pytest.mark.parametrize("folder", FOLDERS)
def test_manifests_are_valid(folder: str) -> None:
    for document in rendered(folder):
        if document["kind"] == "ServiceMonitor":
            assert_fields(document, SERVICE_MONITOR)
        else:
            assert_valid(document)


def test_a_wrong_field_is_noticed() -> None:
    deployment = only("base", "Deployment")
    with pytest.raises(AssertionError, match="replica"):
        assert_valid({**deployment, "spec": {**deployment["spec"], "replica": 2}})


@pytest.mark.parametrize("component", ["objects-kubernetes", "servicemonitor"])
def test_each_component_goes_with_the_base_alone(tmp_path: Path, component: str) -> None:
    shutil.copytree(KUSTOMIZE, tmp_path / "kustomize")
    overlay = tmp_path / "kustomize" / "overlays" / "one"
    overlay.mkdir()
    names = {"resources": ["../../base"], "components": [f"../../components/{component}"]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(names))
    kinds = {document["kind"] for document in render(overlay)}
    more = {"objects-kubernetes": {"ClusterRole", "ClusterRoleBinding"}}
    base = {document["kind"] for document in rendered("base")}
    assert kinds - base == more.get(component, {"ServiceMonitor"})


@pytest.mark.parametrize("folder", REPLICAS)
def test_namespace_enforces_and_the_pods_keep_the_restricted_standard(folder: str) -> None:
    labels = only(folder, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert_restricted(pod_spec(folder))


def test_static_pod_keeps_the_standard_except_host_network_and_folder() -> None:
    spec = pod_spec("static-pod")
    (data,) = [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert_restricted({**spec, "volumes": [v for v in spec["volumes"] if v != data]})
    # A static Pod refers to no object of the API.
    assert spec["automountServiceAccountToken"] is False
    assert not {"serviceAccountName", "serviceAccount"} & set(spec)
    (environment,) = spec["containers"][0]["env"]
    assert environment["value"] == data["hostPath"]["path"]


def test_signer_keeps_the_standard_except_host_network_folders_and_the_mode_of_one() -> None:
    spec = pod_spec("static-pod-signer")
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["hostNetwork"] is True
    assert spec["automountServiceAccountToken"] is False
    assert not {"serviceAccountName", "serviceAccount"} & set(spec)
    volumes = {volume["name"]: volume["hostPath"] for volume in spec["volumes"]}
    assert volumes["data"] == {"path": "/etc/leeway", "type": "Directory"}
    (socket,) = spec["initContainers"]
    (signer,) = spec["containers"]
    assert_container_restricted(signer, spec["securityContext"], needed_mebibytes=0)
    user = str(spec["securityContext"]["runAsUser"])
    folder = str(Path(SOCKET).parent)
    assert socket["command"] == ["install", "-d", "-m", "0750", "-o", user, "-g", user, folder]
    assert socket["securityContext"] == {
        "runAsNonRoot": False,
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "FOWNER"]},
    }
    assert [mount["name"] for mount in socket["volumeMounts"]] == ["socket"]


def test_the_signer_finds_its_data_and_the_api_server_its_socket() -> None:
    spec = pod_spec("static-pod-signer")
    (signer,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in signer["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"] for volume in spec["volumes"]}
    (environment,) = signer["env"]
    assert environment["value"] == mounts["data"]
    assert mounts["socket"] == volumes["socket"]["path"] == str(Path(SOCKET).parent)
    (operation,) = [each for each in operations() if each["path"] == "/spec/volumes/-"]
    assert operation["value"]["hostPath"] == volumes["socket"]
    for name in ("startupProbe", "livenessProbe"):
        probe = signer[name]["httpGet"]
        assert f"{probe['host']}:{probe['port']}" in signer["args"]
        assert probe["path"] == "/livez"
        # Plain HTTP is the default.
        assert "scheme" not in probe


def test_the_signer_runs_and_answers_its_probes(tmp_path: Path) -> None:
    (signer,) = pod_spec("static-pod-signer")["containers"]
    data = tmp_path / "leeway-data"
    subprocess.run([LEEWAY, "init", "--data-dir", data], check=True, capture_output=True)
    assert_signer_runs(signer, data, tmp_path / "signer")


@pytest.mark.parametrize("folder", REPLICAS)
def test_everything_selects_the_pods(folder: str) -> None:
    template = only(folder, "Deployment")["spec"]["template"]["metadata"]["labels"]
    deployment = only(folder, "Deployment")["spec"]
    selectors = [
        deployment["selector"]["matchLabels"],
        only(folder, "Service")["spec"]["selector"],
        only(folder, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(folder, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            constraint["labelSelector"]["matchLabels"]
            for constraint in deployment["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= template.items()


@pytest.mark.parametrize("folder", REPLICAS)
def test_one_replica_can_be_evicted_at_any_time(folder: str) -> None:
    deployment = only(folder, "Deployment")["spec"]
    assert only(folder, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert deployment["replicas"] == 3
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    spread = {
        constraint["topologyKey"]: constraint["whenUnsatisfiable"]
        for constraint in deployment["template"]["spec"]["topologySpreadConstraints"]
    }
    assert spread["kubernetes.io/hostname"] == "DoNotSchedule"


def test_the_pod_outlives_its_drain() -> None:
    from webhook.server.gunicorn_settings import GRACEFUL_SECONDS

    spec = pod_spec("base")
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    wait = int(command[1])
    assert spec["terminationGracePeriodSeconds"] > wait + GRACEFUL_SECONDS
    assert pod_spec("static-pod")["terminationGracePeriodSeconds"] > GRACEFUL_SECONDS


def test_ports_match() -> None:
    (container,) = pod_spec("base")["containers"]
    (port,) = container["ports"]
    (service,) = only("base", "Service")["spec"]["ports"]
    (ingress,) = only("base", "NetworkPolicy")["spec"]["ingress"]
    monitor = only("overlays/example", "ServiceMonitor")["spec"]["endpoints"]
    assert service["targetPort"] == port["name"] == ingress["ports"][0]["port"]
    assert [endpoint["port"] for endpoint in monitor] == [service["name"]]
    # `leeway init` writes this port into the webhook kubeconfigs.
    assert service["port"] == port["containerPort"] == 8443
    assert container["args"][-1].endswith(":8443")


def test_egress_is_to_etcd_and_dns_and_with_the_component_to_api_servers() -> None:
    policy = only("base", "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert ports_of(policy["egress"]) == {2379, 53}
    more = only("overlays/example", "NetworkPolicy")["spec"]["egress"]
    assert ports_of(more) - ports_of(policy["egress"]) == {443, 6443}


def ports_of(rules: list[Any]) -> set[int]:
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_least_rbac() -> None:
    assert not [d for d in rendered("base") if d["apiVersion"].startswith("rbac")]
    (rule,) = only("overlays/example", "ClusterRole")["rules"]
    assert rule["apiGroups"] == [""]
    assert set(rule["resources"]) == {"serviceaccounts", "pods", "secrets", "nodes"}
    assert set(rule["verbs"]) == {"get", "list", "watch"}
    binding = only("overlays/example", "ClusterRoleBinding")
    account = only("overlays/example", "ServiceAccount")["metadata"]
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert binding["roleRef"]["name"] == "leeway-objects"
    spec = pod_spec("overlays/example")
    assert spec["serviceAccountName"] == account["name"]
    assert spec["automountServiceAccountToken"] is True
    assert pod_spec("base")["automountServiceAccountToken"] is False
    environment = {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"]}
    assert environment["LEEWAY_OBJECTS_SOURCE"] == "kubernetes"


def test_configuration_of_the_replicas(tmp_path: Path) -> None:
    text = only("base", "ConfigMap")["data"]["leeway.yaml"]
    (tmp_path / "leeway.yaml").write_text(text)
    environment = {
        e["name"]: e["value"] for e in pod_spec("overlays/example")["containers"][0]["env"]
    }
    configuration = load_configuration(tmp_path, environment, {})
    assert configuration.objects.source == "kubernetes"
    assert configuration.audiences[0] == "https://kubernetes.default.svc.cluster.local"
    assert configuration.store.etcd is not None
    assert configuration.keys.store == "etcd"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run the members of the StatefulSet, and return the folder of the certificates."""
    folder = tmp_path_factory.mktemp("etcd")
    spec = only("etcd", "StatefulSet")
    (container,) = spec["spec"]["template"]["spec"]["containers"]
    names = [f"{spec['metadata']['name']}-{number}" for number in range(spec["spec"]["replicas"])]
    addresses = loopback_addresses(len(names))
    certs = folder / "tls"
    # A peer connects from 127.0.0.1, and its certificate has to name the address it comes from.
    hosts = [*addresses, "127.0.0.1"]
    assert make_certs("--dir", certs, *with_each("--host", hosts)).returncode == 0
    moved = {"/etc/etcd/tls": str(certs), "/var/lib/etcd": str(folder)}
    arguments = []
    for name in names:
        words = [word.replace("$(POD_NAME)", name) for word in container["args"]]
        for inside, outside in moved.items():
            words = [word.replace(inside, outside) for word in words]
        data = f"--data-dir={folder}/{name}"
        arguments.append([data if "--data-dir" in word else word for word in words])
    hosts = [urlsplit(endpoint).hostname or "" for endpoint in endpoints_of("base")]
    environments: list[dict[str, str]] = [{}] * len(names)
    with (
        members_running(dict(zip(hosts, addresses, strict=True)), arguments, environments, folder),
        pytest.MonkeyPatch.context() as patch,
    ):
        urls = ",".join(f"https://{address}:2379" for address in addresses)
        patch.setenv("LEEWAY_STORE_ETCD_ENDPOINTS", urls)
        yield certs


def endpoints_of(folder: str) -> list[str]:
    configuration = yaml.safe_load(only(folder, "ConfigMap")["data"]["leeway.yaml"])
    found: list[str] = configuration["store"]["etcd"]["endpoints"]
    return found


def with_each(option: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, members: Path) -> Path:
    """Make the data directory as docs/kubernetes.md does."""
    folder = tmp_path_factory.mktemp("replicas") / "leeway-data"
    (folder / TLS_FOLDER).mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    shutil.copy(KUSTOMIZE / "base" / "leeway.yaml", folder)
    for name in SECRETS["leeway-etcd-client"]:
        shutil.copy(members / Path(name).name, folder / name)
    hosts = [only("overlays/example", "Service")["spec"]["clusterIP"], "leeway.leeway-system.svc"]
    for words in (
        ["keys", "encryption-key", str(folder / "encryption.key")],
        ["init", "--data-dir", str(folder), *with_each("--host", hosts)],
    ):
        subprocess.run([LEEWAY, *words], check=True, capture_output=True)
    return folder


@pytest.fixture
def volumes(data_dir: Path, tmp_path: Path) -> dict[str, Path]:
    """Lay out the Secrets and the ConfigMap as a kubelet mounts them: links to mode 0440."""
    contents: dict[str, dict[str, bytes]] = {
        "config": {"leeway.yaml": only("base", "ConfigMap")["data"]["leeway.yaml"].encode()}
    }
    for volume, secret in secrets_of(pod_spec("base")).items():
        paths = [data_dir / name for name in SECRETS[secret["secretName"]]]
        contents[volume] = {path.name: path.read_bytes() for path in paths}
    made = {}
    for name, files in contents.items():
        made[name] = tmp_path / "source" / name
        real = made[name] / "..2026_11_25"
        real.mkdir(parents=True)
        (made[name] / "..data").symlink_to(real.name)
        for file, data in files.items():
            (real / file).write_bytes(data)
            (real / file).chmod(0o440)
            (made[name] / file).symlink_to(f"..data/{file}")
    return made


def secrets_of(spec: Any) -> dict[str, Any]:
    return {volume["name"]: volume["secret"] for volume in spec["volumes"] if "secret" in volume}


def test_overlays_differ_in_their_endpoints_alone() -> None:
    texts = [only(folder, "ConfigMap")["data"]["leeway.yaml"] for folder in REPLICAS]
    assert texts[0] == texts[1]
    here, existing = (yaml.safe_load(text) for text in texts[1:])
    assert here["store"]["etcd"].pop("endpoints") != existing["store"]["etcd"].pop("endpoints")
    assert here == existing


def test_pod_mounts_those_secrets() -> None:
    spec = pod_spec("base")
    found = secrets_of(spec)
    assert {secret["secretName"] for secret in found.values()} == set(SECRETS)
    assert {secret["defaultMode"] for secret in found.values()} == {0o440}
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsUser"]
    (copy,), (container,) = spec["initContainers"], spec["containers"]
    source = {m["name"]: m["mountPath"] for m in copy["volumeMounts"]}
    assert {name: source[name] for name in (*found, "config")} == {
        name: f"/source/{name}" for name in (*found, "config")
    }
    # The server itself sees the copy only.
    assert not {mount["name"] for mount in container["volumeMounts"]} & {*found, "config"}


def test_replicas_serve_from_their_secrets(
    data_dir: Path, volumes: dict[str, Path], tmp_path: Path
) -> None:
    (copy,), (container,) = pod_spec("base")["initContainers"], pod_spec("base")["containers"]
    token = created_token(data_dir)
    kubeconfig = data_dir / "kubeconfig" / "tokenreview.yaml"
    with ExitStack() as stack:
        replicas = []
        for number in range(2):
            inside = tmp_path / f"var-{number}"
            inside.mkdir()
            moved = {"/source": volumes["config"].parent, "/var/lib/leeway": inside}
            run_copy(copy["command"], moved)
            data = inside / "data"
            found = files_in(data)
            assert set(found.values()) == {0o600}
            secret = {name for names in SECRETS.values() for name in names}
            assert set(found) == {*secret, "leeway.yaml"}
            replicas.append(
                stack.enter_context(serving(container, data, tmp_path / f"log-{number}"))
            )
        for server in replicas:
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert probe_status(container[name], server) == 200
            answer = review_with(kubeconfig, token, server, tmp_path)
            assert answer["status"]["user"]["username"] == "system:serviceaccount:argo-run:loofah"
            assert as_json(answer["status"]["audiences"]).count("kubernetes.default.svc") == 2
        # As in a Pod, where the command finds its data directory in the environment.
        revoke = [LEEWAY, "revoke", "serviceaccount", "argo-run/loofah", "--data-dir"]
        subprocess.run([*revoke, replicas[0].data_dir], check=True, capture_output=True)
        for server in replicas:
            wait_until(partial(is_refused, kubeconfig, token, server, tmp_path))


def is_refused(kubeconfig: Path, token: str, server: RunningServer, folder: Path) -> bool:
    status = review_with(kubeconfig, token, server, folder)["status"]
    return not status.get("authenticated")


def test_leeway_would_not_serve_from_the_mounted_secret_itself(volumes: dict[str, Path]) -> None:
    from keys.errors import KeyFileError
    from keys.files import read_private_file

    with pytest.raises(KeyFileError, match="group or others"):
        read_private_file(volumes["tls"] / "server.key")
