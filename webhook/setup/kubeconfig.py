"""kubeconfig files with everything inline, so that one file can be mounted or copied.

Source: kubernetes ``k8s.io/client-go/tools/clientcmd/api/v1``.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from keys.errors import KeysError
from keys.messages import shown
from keys.pki import CertifiedKey, read_certificate
from webhook.config.yaml_text import YAML_ERRORS, parse_yaml
from webhook.errors import ConfigurationError, DataDirectoryError
from webhook.https_url import HTTPSAddress, parse_https_url

CLUSTER = "leeway"


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The current context of a kubeconfig; what the file does not contain is empty."""

    server: HTTPSAddress
    ca: bytes
    certificate: bytes
    private_key: bytes
    is_insecure: bool

    def __repr__(self) -> str:
        return f"Kubeconfig({self.server.display!r}, ...)"


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
                    "certificate-authority-data": _encoded(ca_certificate),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _encoded(client.certificate),
                    "client-key-data": _encoded(client.private_key),
                },
            }
        ],
        "contexts": [{"name": CLUSTER, "context": {"cluster": CLUSTER, "user": user}}],
        "current-context": CLUSTER,
    }
    return yaml.safe_dump(document, sort_keys=False, width=100).encode("utf-8")


def parse_kubeconfig(data: bytes, name: str) -> Kubeconfig:
    """Parse a kubeconfig file; ``name`` is its name in errors. Raises ConfigurationError.

    No error shows any part of a private key.
    """
    document = parse_yaml(data, name)
    current = document.get("current-context")
    context = _entry(document, "contexts", "context", current, name)
    cluster = _entry(document, "clusters", "cluster", context.get("cluster"), name)
    user = _entry(document, "users", "user", context.get("user"), name)
    try:
        server = parse_https_url(str(cluster.get("server")))
    except ValueError as error:
        raise ConfigurationError(f"the server of {name} is {error}") from error
    return Kubeconfig(
        server,
        _inline(cluster, "certificate-authority-data", name),
        _inline(user, "client-certificate-data", name),
        _inline(user, "client-key-data", name),
        cluster.get("insecure-skip-tls-verify") is True,
    )


def with_certificate(data: bytes, name: str, user: str, client: CertifiedKey) -> bytes | None:
    """Return a kubeconfig with a new certificate and key of a user; None if it has none of them.

    They are replaced in place: comments and manual additions stay. ``name`` is the file's name in
    errors. Raises DataDirectoryError for a text that is not a kubeconfig.
    """
    new = {
        "client-certificate-data": _encoded(client.certificate),
        "client-key-data": _encoded(client.private_key),
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


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _entry(
    document: dict[Any, Any], plural: str, field: str, wanted: object, name: str
) -> dict[Any, Any]:
    entries = document.get(plural)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and wanted and entry.get("name") == wanted:
            found = entry.get(field)
            if isinstance(found, dict):
                return found
    raise ConfigurationError(f"{name} has no {field} named {shown(wanted, 64)}")


def _inline(members: dict[Any, Any], field: str, name: str) -> bytes:
    value = members.get(field, "")
    try:
        return base64.b64decode("".join(str(value).split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise ConfigurationError(f"{field} of {name} is not base64") from error
