"""A data directory, its application, and requests for it."""

import asyncio
import json
import time
from pathlib import Path

from webhook.assembly import keyring_of, policy_of
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER
from webhook.server.reload.live_application import LiveApplication
from webhook.server.request.message import Fields, Headers, Request, Response, settled
from webhook.setup.first_records import API_SERVER_USER
from webhook.setup.init import InitOptions, initialise
from webhook.token.issuer import TokenSpec, issue_token

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_PATH = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
GOOD = b'"authenticated":true'
JSON: Fields = ((b"content-type", b"application/json"),)


class Served:
    """``certificate`` is that of the API server, in PEM; ``token`` is a good one."""

    def __init__(self, folder: Path) -> None:
        initialise(folder, InitOptions(algorithm="ES256"), time.time())
        self.configuration = load_configuration(folder, {}, {})
        self.app = LiveApplication(folder, lambda: load_configuration(folder, {}, {}))
        self.certificate = (folder / TLS_FOLDER / f"{API_SERVER_USER}.crt").read_text()
        spec = TokenSpec(namespace="demo", name="default", uid="1")
        policy, keyring = policy_of(self.configuration), keyring_of(folder)
        self.token = issue_token(spec, policy, keyring, time.time()).token

    def review(self, token: str = "", **members: object) -> bytes:
        """Return the body of a TokenReview as kube-apiserver writes it."""
        return json.dumps(
            {
                "kind": "TokenReview",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"creationTimestamp": None},
                "spec": {"token": token or self.token},
                "status": {"user": {}},
            }
            | members,
            separators=(",", ":"),
        ).encode()

    def post(
        self, body: bytes, path: str = PATH, headers: Fields = JSON, *, certified: bool = True
    ) -> Request:
        """Return a request with that body; ``certified`` shows the API server's certificate."""
        certificate = self.certificate if certified else ""
        fields = Headers(headers)
        return Request("POST", path, b"timeout=30s", fields, body, len(body), certificate)

    def answer(self, request: Request) -> Response:
        """Answer a request, and wait where that is needed."""

        async def settle() -> Response:
            return await settled(self.app.answer(request))

        return asyncio.run(settle())


def access_review() -> bytes:
    """Return the body of a SubjectAccessReview."""
    attributes = {"path": "/metrics", "verb": "get"}
    return json.dumps({"spec": {"user": "somebody", "nonResourceAttributes": attributes}}).encode()
