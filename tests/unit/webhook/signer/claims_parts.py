"""Claims as kube-apiserver sends them to be signed."""

import json
from typing import Any, Final

from keys.encoding import encode_base64url

ISSUER: Final = "https://leeway.default.svc"
NOW: Final = 1_796_000_000


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of a token of a Pod, with changes."""
    members: dict[str, Any] = {
        "aud": ["https://kubernetes.default.svc"],
        "exp": NOW + 3600,
        "iat": NOW,
        "iss": ISSUER,
        "jti": "b9ae7d10-51be-4c41-8a9f-1d3a0a3c5e4c",
        "kubernetes.io": private(),
        "nbf": NOW,
        "sub": "system:serviceaccount:team-a:build.bot",
    }
    return members | changed


def private(**changed: Any) -> dict[str, Any]:
    """Return the claims under ``kubernetes.io``, with changes."""
    members: dict[str, Any] = {
        "namespace": "team-a",
        "node": {"name": "node-1.example", "uid": "n-1"},
        "pod": {"name": "build-0", "uid": "p-1"},
        "serviceaccount": {"name": "build.bot", "uid": "s-1"},
        "warnafter": NOW + 3607,
    }
    return members | changed


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    """Return members without one."""
    return {key: value for key, value in members.items() if key != name}


def text(members: object) -> str:
    """Encode as Go does: sorted, without spaces."""
    return json.dumps(members, separators=(",", ":"), sort_keys=True)


def segment(members: object) -> str:
    """Return the payload segment of members, or of a JSON text."""
    data = members if isinstance(members, str) else text(members)
    return encode_base64url(data.encode())
