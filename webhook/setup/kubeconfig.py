"""Renders kubeconfig files with everything inline, so that one file can be mounted or copied."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from keys.errors import KeysError
from keys.pki import CertifiedKey, read_certificate
from webhook.config.yaml_text import YAML_ERRORS
from webhook.errors import DataDirectoryError

CLUSTER = "leeway"


def kubeconfig(server: str, ca_certificate: bytes, user: str, client: CertifiedKey) -> bytes:
    """Render a kubeconfig (``k8s.io/client-go/tools/clientcmd/api/v1``) for one user."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": CLUSTER,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": _inline(ca_certificate),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _inline(client.certificate),
                    "client-key-data": _inline(client.private_key),
                },
            }
        ],
        "contexts": [{"name": CLUSTER, "context": {"cluster": CLUSTER, "user": user}}],
        "current-context": CLUSTER,
    }
    return yaml.safe_dump(document, sort_keys=False, width=100).encode("utf-8")


def with_certificate(data: bytes, name: str, user: str, client: CertifiedKey) -> bytes | None:
    """Return a kubeconfig with a new certificate and key of a user; None if it has none of them.

    They are replaced in place: comments and manual additions stay. ``name`` is the file's name in
    errors. Raises DataDirectoryError for a text that is not a kubeconfig.
    """
    new = {
        "client-certificate-data": _inline(client.certificate),
        "client-key-data": _inline(client.private_key),
    }
    try:
        users = list(_users(yaml.safe_load(data)))
    except YAML_ERRORS as error:
        raise DataDirectoryError(
            f"{name} is not a kubeconfig; remove it, and make another with `leeway init`"
        ) from error
    held = [entry for entry in users if _common_name(entry) == user]
    for entry in held:
        for field, text in new.items():
            data = data.replace(str(entry.get(field) or text).encode(), text.encode())
    return data if held else None


def _users(document: Any) -> Iterator[Mapping[str, Any]]:
    for entry in document.get("users") or []:
        if isinstance(entry["user"], dict):
            yield entry["user"]


def _common_name(user: Mapping[str, Any]) -> str | None:
    try:
        pem = base64.b64decode(str(user.get("client-certificate-data") or ""), validate=True)
        return read_certificate(pem, "").common_name
    except (KeysError, ValueError):
        return None


def _inline(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
