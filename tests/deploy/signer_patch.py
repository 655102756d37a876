"""The patch for kube-apiserver, and the manifest that kubeadm writes."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.deploy_schemas import DEPLOY
from webhook.config.model import SignerSection

PATCH = DEPLOY / "kubeadm" / "patches" / "kube-apiserver0+json.json"
# Written by kubeadm 1.36.2 for a configuration without arguments of its own.
MANIFEST = Path(__file__).parent / "kubeadm" / "kube-apiserver.yaml"
SOCKET = SignerSection().socket
ENDPOINT = f"--service-account-signing-endpoint={SOCKET}"
PUBLIC = "--service-account-key-file=/etc/kubernetes/pki/sa.pub"
PRIVATE = "--service-account-signing-key-file=/etc/kubernetes/pki/sa.key"


def manifest() -> Any:
    return yaml.safe_load(MANIFEST.read_text())


def flags_of(pod: Any) -> list[str]:
    (container,) = pod["spec"]["containers"]
    flags: list[str] = container["command"]
    return flags


def operations() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(PATCH.read_text())
    return found
