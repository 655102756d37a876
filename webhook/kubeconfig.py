"""kubeconfig files with everything inline, so that one file can be mounted or copied."""

import base64

import yaml

from keys.pki import CertifiedKey

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


def _inline(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
