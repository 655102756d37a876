"""The baseline: an ordinary TokenReview webhook with Flask and PyJWT.

gunicorn runs it with ``gthread`` workers and the certificates of ``leeway serve``. The PEM of
the public key, the issuer and the audience come from the environment.
"""

import os
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flask import Flask, Response, jsonify, request

PUBLIC_KEY: Any = load_pem_public_key(Path(os.environ["BASELINE_PUBLIC_KEY"]).read_bytes())
ISSUER = os.environ["BASELINE_ISSUER"]
AUDIENCE = os.environ["BASELINE_AUDIENCE"]
LEEWAY_SECONDS = 60

app = Flask(__name__)


@app.post("/apis/authentication.k8s.io/v1/tokenreviews")
def create_token_review() -> tuple[Response, int]:
    """Answer one TokenReview."""
    review = request.get_json()
    try:
        claims = jwt.decode(
            review["spec"]["token"],
            PUBLIC_KEY,
            algorithms=["RS256"],
            audience=review["spec"].get("audiences") or [AUDIENCE],
            issuer=ISSUER,
            leeway=LEEWAY_SECONDS,
        )
        status = {
            "authenticated": True,
            "user": user_of(claims),
            "audiences": claims["aud"],
        }
    except (jwt.PyJWTError, KeyError) as error:
        status = {"authenticated": False, "error": str(error)}
    answer = {"apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status}
    return jsonify(answer), 201


def user_of(claims: dict[str, Any]) -> dict[str, Any]:
    """Return the ``user`` of a TokenReview's status."""
    private = claims["kubernetes.io"]
    namespace, account = private["namespace"], private["serviceaccount"]
    extra = {"authentication.kubernetes.io/credential-id": [f"JTI={claims['jti']}"]}
    for kind in ("pod", "node"):
        if kind in private:
            extra[f"authentication.kubernetes.io/{kind}-name"] = [private[kind]["name"]]
            extra[f"authentication.kubernetes.io/{kind}-uid"] = [private[kind]["uid"]]
    return {
        "username": f"system:serviceaccount:{namespace}:{account['name']}",
        "uid": account["uid"],
        "groups": [
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        ],
        "extra": extra,
    }
