"""What manifests are held to.

``assert_valid`` asks the JSON schemas of the three latest Kubernetes versions that the package
kubernetes-validate ships. Types that have none are in tables here, read from the Go sources named
beside them: a name that ends with ``!`` has to be there.
"""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from packaging.version import Version

from webhook.config.model import Configuration

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# Each worker at its bound, the process above them, and two volumes in memory.
_SERVER = Configuration().server
NEEDED_MEBIBYTES = _SERVER.workers * _SERVER.max_worker_bytes // 1024**2 + 64 + 2 * 64


def latest_versions() -> list[str]:
    """Return the three latest versions that have schemas."""
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    found = {path.name.removesuffix("-local-strict") for path in folder.glob("*-local-strict")}
    return sorted(found, key=Version)[-3:]


def documents(text: str) -> list[Any]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def assert_valid(document: Any) -> None:
    """Assert that a Kubernetes object has no unknown field and no wrong type in any version."""
    for version in latest_versions():
        try:
            kubernetes_validate.validate(document, version.removeprefix("v"), strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            raise AssertionError(f"{version}: {document['kind']}.{path}: {error}") from error


class Map:
    """A map from strings to values of one type."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


def assert_fields(value: Any, kind: Any, path: str = "") -> None:
    """Assert that a value is of a type: a Python type, a table, ``[type]``, ``Map``, or choices."""
    if isinstance(kind, dict):
        assert isinstance(value, dict), f"{path}: {value!r} is no object"
        names = {name.removesuffix("!"): name for name in kind}
        assert set(value) <= set(names), f"{path}: unknown {set(value) - set(names)}"
        missing = {name for name, marked in names.items() if marked.endswith("!")} - set(value)
        assert not missing, f"{path}: {missing} missing"
        for name, member in value.items():
            assert_fields(member, kind[names[name]], f"{path}.{name}")
    elif isinstance(kind, list):
        assert isinstance(value, list), f"{path}: {value!r} is no list"
        for number, member in enumerate(value):
            assert_fields(member, kind[0], f"{path}[{number}]")
    elif isinstance(kind, Map):
        assert isinstance(value, dict), f"{path}: {value!r} is no map"
        for name, member in value.items():
            assert isinstance(name, str), f"{path}: {name!r} is no string"
            assert_fields(member, kind.kind, f"{path}.{name}")
    elif isinstance(kind, tuple):
        assert value in kind, f"{path}: {value!r} is none of {kind}"
    else:
        assert type(value) is kind, f"{path}: {value!r} is no {kind.__name__}"


# kubernetes-sigs/kind pkg/apis/config/v1alpha4/types.go: Cluster, Node, Mount. kind reads it with
# unknown fields forbidden.
KIND_MOUNT = {
    "containerPath": str,
    "hostPath": str,
    "readOnly": bool,
    "selinuxRelabel": bool,
    "propagation": ("None", "HostToContainer", "Bidirectional"),
}
KIND_CLUSTER = {
    "kind!": ("Cluster",),
    "apiVersion!": ("kind.x-k8s.io/v1alpha4",),
    "name": str,
    "nodes": [
        {
            "role": ("control-plane", "worker"),
            "image": str,
            "labels": Map(str),
            "extraMounts": [KIND_MOUNT],
            "kubeadmConfigPatches": [str],
        }
    ],
    "featureGates": Map(bool),
    "runtimeConfig": Map(str),
    "kubeadmConfigPatches": [str],
}

# kubernetes/kubernetes cmd/kubeadm/app/apis/kubeadm/{v1beta3,v1beta4}/types.go:
# ClusterConfiguration, APIServer, ControlPlaneComponent, HostPathMount, Arg. HostPathType is
# core/v1's.
HOST_PATH_MOUNT = {
    "name!": str,
    "hostPath!": str,
    "mountPath!": str,
    "readOnly": bool,
    "pathType": ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File"),
}


def _cluster_configuration(version: str, arguments: Any, **more: Any) -> dict[str, Any]:
    component = {"extraArgs": arguments, "extraVolumes": [HOST_PATH_MOUNT], **more}
    api_server = {**component, "certSANs": [str]}
    if version == "v1beta3":
        api_server["timeoutForControlPlane"] = str
    return {
        "apiVersion!": (f"kubeadm.k8s.io/{version}",),
        "kind!": ("ClusterConfiguration",),
        "apiServer": api_server,
        "controllerManager": component,
        "scheduler": component,
        "kubernetesVersion": str,
        "controlPlaneEndpoint": str,
        "clusterName": str,
    }


KUBEADM = {
    "kubeadm.k8s.io/v1beta3": _cluster_configuration("v1beta3", Map(str)),
    "kubeadm.k8s.io/v1beta4": _cluster_configuration(
        "v1beta4", [{"name!": str, "value!": str}], extraEnvs=[dict]
    ),
}

# kubernetes/kubernetes staging/src/k8s.io/apiserver/pkg/apis/apiserver/{v1beta1,v1}/types.go:
# AuthorizationConfiguration and what is in it; required is what validation.go requires.
AUTHORIZATION = {
    "apiVersion!": ("apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1"),
    "kind!": ("AuthorizationConfiguration",),
    "authorizers!": [
        {
            "type!": ("Node", "RBAC", "ABAC", "AlwaysAllow", "AlwaysDeny", "Webhook"),
            "name!": str,
            "webhook": {
                "authorizedTTL": str,
                "unauthorizedTTL": str,
                "timeout!": str,
                "subjectAccessReviewVersion!": ("v1", "v1beta1"),
                "matchConditionSubjectAccessReviewVersion!": ("v1",),
                "failurePolicy!": ("NoOpinion", "Deny"),
                "connectionInfo!": {"type!": ("KubeConfigFile",), "kubeConfigFile!": str},
                "matchConditions": [{"expression!": str}],
            },
        }
    ],
}

# prometheus-operator/prometheus-operator pkg/apis/monitoring/v1: servicemonitor_types.go, types.go
# (Endpoint), tls_types.go (TLSConfig, SecretOrConfigMap); the selectors are core/v1's.
_KEY = {"name": str, "key!": str, "optional": bool}
_SECRET_OR_CONFIG_MAP = {"secret": _KEY, "configMap": _KEY}
SERVICE_MONITOR = {
    "apiVersion!": ("monitoring.coreos.com/v1",),
    "kind!": ("ServiceMonitor",),
    "metadata!": {"name!": str, "namespace": str, "labels": Map(str)},
    "spec!": {
        "jobLabel": str,
        "selector!": {"matchLabels": Map(str)},
        "endpoints!": [
            {
                "port": str,
                "path": str,
                "scheme": ("http", "https"),
                "interval": str,
                "tlsConfig": {
                    "ca": _SECRET_OR_CONFIG_MAP,
                    "cert": _SECRET_OR_CONFIG_MAP,
                    "keySecret": _KEY,
                    "serverName": str,
                },
            }
        ],
    },
}


def assert_restricted(spec: dict[str, Any]) -> None:
    """Assert what the Pod security standard `restricted` asks of a Pod, and a read-only root.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    context = spec["securityContext"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for name in ("hostPID", "hostIPC", "shareProcessNamespace"):
        assert not spec.get(name), name
    allowed = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
    assert {key for volume in spec["volumes"] for key in volume} - {"name"} <= allowed
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        assert_container_restricted(container, context)


def assert_container_restricted(
    container: dict[str, Any], pod: dict[str, Any], needed_mebibytes: int = NEEDED_MEBIBYTES
) -> None:
    own = container["securityContext"]
    assert {**pod, **own}["runAsNonRoot"] is True
    assert {**pod, **own}["runAsUser"] > 0
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    limit = container["resources"].get("limits", {}).get("memory", "")
    assert not limit or mebibytes(limit) >= needed_mebibytes


def mebibytes(quantity: str) -> int:
    units = {"Mi": 1, "Gi": 1024}
    return int(quantity[:-2]) * units[quantity[-2:]]


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
