"""Checks the kubeconfig files with which API servers and people call Leeway.

Source: kubernetes ``k8s.io/client-go/tools/clientcmd/api/v1``.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keys.messages import shown
from webhook.config.yaml_text import parse_yaml
from webhook.doctor.certificates import CLIENT_USAGE, check_leaf, load_certificates
from webhook.doctor.findings import Verdict, failure, ok, warning
from webhook.errors import ConfigurationError
from webhook.https_url import HTTPSAddress, parse_https_url


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


def check_kubeconfig(
    kubeconfig: Kubeconfig,
    path: str,
    ca: bytes,
    user: str,
    now: datetime,
    name: str,
    fix: str,
) -> Verdict:
    """Check that a kubeconfig names a route, trusts the CA, and has a client certificate from it.

    ``path`` is that of the route, ``/`` if clients add their own.
    """
    if kubeconfig.is_insecure:
        finding = f"{name} has insecure-skip-tls-verify: any server is accepted"
        return failure(finding, fix)
    if kubeconfig.server.target != path:
        finding = f"{name} leads to {kubeconfig.server.display_target}, not to {path}"
        return failure(finding, fix)
    missing = [
        field
        for field, value in (
            ("certificate-authority-data", kubeconfig.ca),
            ("client-certificate-data", kubeconfig.certificate),
            ("client-key-data", kubeconfig.private_key),
        )
        if not value
    ]
    if missing:
        return warning(
            f"{name} does not contain {' and '.join(missing)}, so it is not checked", fix
        )
    trusted = set(load_certificates(kubeconfig.ca, f"the CA in {name}"))
    if not trusted & set(load_certificates(ca, "tls/ca.crt")):
        return failure(f"{name} trusts another CA than that in tls/ca.crt", fix)
    verdict = check_leaf(
        kubeconfig.certificate,
        kubeconfig.private_key,
        ca,
        CLIENT_USAGE,
        now,
        f"the client certificate in {name}",
        fix,
        user,
    )
    if verdict.fix:
        return verdict
    return ok(f"{kubeconfig.server.display} as {user}, {verdict.finding.partition(',')[0]}")


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
