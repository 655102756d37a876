"""A kube-apiserver for which ``leeway signer`` signs, with ``leeway serve`` on the same keys."""

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from keys.pem import public_key_pem
from tests.e2e.harness import (
    AUDIENCE,
    HOST,
    LEEWAY,
    Answer,
    RunningServer,
    free_port,
    records_of,
    serve,
    trouble_in,
)
from tests.secrets_made import folder_made, printed, token_made
from tests.support import unb64, wait_until
from webhook.setup.init import InitOptions, initialise

from .cluster import (
    ISSUER,
    LEGACY_ISSUER,
    SIGNING_KEY,
    APIServer,
    Authority,
    kubeconfig,
    running_api_server,
)

NAMESPACE = "signed"
NAMESPACED = f"/api/v1/namespaces/{NAMESPACE}"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REFRESH_SECONDS = 2


@dataclass
class Signer:
    """``leeway signer`` in a process of its own, which can be stopped and started again."""

    data_dir: Path
    socket: Path
    log_file: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        before = self.starts()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [LEEWAY, "signer", "--data-dir", self.data_dir], stdout=log, stderr=log
            )
        wait_until(lambda: self.starts() > before or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()

    def starts(self) -> int:
        """Return how often a process has said that it serves."""
        return len(self.records("serving"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log()

    def reload(self) -> None:
        """Have the configuration read again, and wait until it is used."""
        before = self.log().count("the configuration was loaded again")
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count("the configuration was loaded again") > before)

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def records(self, event: str) -> list[dict[str, Any]]:
        return [record for record in records_of(self.log()) if record.get("event") == event]


def prepared_signer(folder: Path) -> Signer:
    """Make a data directory with a key of its own and the public key of the cluster.

    Nothing runs yet. The socket is in a folder of its own.
    """
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700)
    run = folder / "run"
    run.mkdir(mode=0o750)
    signer = Signer(data_dir, run / "signer.sock", folder / "signer.log")
    configuration = {
        "apiVersion": "leeway.dev/v1",
        "kind": "LeewayConfiguration",
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "server": {"bind": f"{HOST}:{free_port()}", "workers": 2},
        "signer": {"socket": str(signer.socket), "refreshHint": f"{REFRESH_SECONDS}s"},
        "trustedIssuers": [
            {"url": LEGACY_ISSUER, "legacy": True, "keys": {"publicKeyFiles": ["sa.pub"]}}
        ],
    }
    write_configuration(data_dir, configuration)
    public = public_key_pem(SIGNING_KEY.verification_key.public_key)
    (data_dir / "sa.pub").write_bytes(public)
    initialise(data_dir, InitOptions(algorithm="ES256", issuer=ISSUER), time.time(), os.environ)
    # So that tokens from before stay valid, as docs/signer.md says.
    (data_dir / "keys" / "cluster.pem").write_bytes(public)
    (data_dir / "keys" / "cluster.pem").chmod(0o600)
    folder_made(data_dir)
    return signer


def read_configuration(data_dir: Path) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((data_dir / "leeway.yaml").read_text())
    return value


def write_configuration(data_dir: Path, value: dict[str, Any]) -> None:
    (data_dir / "leeway.yaml").write_text(yaml.safe_dump(value))


def flags_of(signer: Signer) -> dict[str, str | None]:
    """Return the flags of an API server for which Leeway signs."""
    return {
        "service-account-signing-endpoint": str(signer.socket),
        "service-account-signing-key-file": None,
        "service-account-key-file": None,
    }


@dataclass
class SignedCluster:
    """The API server, and both processes of Leeway."""

    api: APIServer
    leeway: RunningServer
    signer: Signer

    def token(self, name: str, *flags: str) -> str:
        """Create a token with kubectl."""
        token = self.api.run("create", "token", name, "-n", NAMESPACE, *flags).strip()
        token_made(token)
        return token

    def requested_token(self, name: str, spec: dict[str, object] | None = None) -> str:
        """Request a token from the API server, without kubectl."""
        answer = self.request_token(name, spec)
        assert answer.status == 201, (answer.body, self.signer.log()[-3000:])
        token: str = answer.json["status"]["token"]
        token_made(token)
        return token

    def request_token(self, name: str, spec: dict[str, object] | None = None) -> Answer:
        """Request a token, which the API server can refuse."""
        path = f"{NAMESPACED}/serviceaccounts/{name}/token"
        return self.api.request("POST", path, {"spec": spec or {}})

    def refusal_of_leeway(self, token: str) -> str:
        """Review a token at Leeway; empty if it is accepted."""
        answer = self.leeway.post_review(token).json
        if answer["status"]["authenticated"]:
            return ""
        reason: str = answer["metadata"]["annotations"]["leeway.dev/reason"]
        return reason

    def refusal_of_api_server(self, token: str, api: APIServer | None = None) -> str:
        """Review a token at this or another API server; empty if it is accepted."""
        api = api or self.api
        body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1"}
        status = api.request("POST", TOKEN_REVIEWS, body | {"spec": {"token": token}}).json
        status = status["status"]
        return "" if status.get("authenticated") else status.get("error") or "not authenticated"

    def assert_accepted(self, token: str) -> None:
        """Assert that both accept a token."""
        found = (self.refusal_of_leeway(token), self.refusal_of_api_server(token))
        assert found == ("", ""), found

    def kids(self) -> set[str]:
        """Return the kids in the API server's own JWKS."""
        document = json.loads(self.api.run("get", "--raw", "/openid/v1/jwks"))
        return {key["kid"] for key in document["keys"]}

    def run(self, *words: str) -> str:
        """Run ``leeway`` on the data directory, and return what it prints."""
        done = subprocess.run(
            [LEEWAY, *words, "--data-dir", str(self.signer.data_dir)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        printed(("leeway", *words), done.stdout, done.stderr)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout


def header_of(token: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(unb64(token.split(".", maxsplit=1)[0]))
    return value


@contextmanager
def running_signed_cluster(
    folder: Path, etcd_port: int, authority: Authority
) -> Iterator[SignedCluster]:
    """Run the signer, the API server, and then a Leeway that looks objects up in it."""
    signer = prepared_signer(folder)
    signer.start()
    try:
        with running_api_server(
            folder / "kube-apiserver", etcd_port, authority, flags_of(signer)
        ) as api:
            api.run("create", "namespace", NAMESPACE)
            for name in ("reader", "other"):
                api.run("create", "serviceaccount", name, "-n", NAMESPACE)
            server = _serve(signer.data_dir, api, authority)
            yield SignedCluster(api, server, signer)
            server.stop()
    finally:
        signer.stop()
    trouble = [line for line in trouble_in(signer.log()) if "a token was not signed" not in line]
    assert trouble == [], trouble


def _serve(data_dir: Path, api: APIServer, authority: Authority) -> RunningServer:
    admin = {
        "client-certificate-data": _text(authority.admin.certificate),
        "client-key-data": _text(authority.admin.private_key),
    }
    path = data_dir / "cluster.kubeconfig"
    path.touch(0o600)
    path.write_bytes(kubeconfig(api.url, authority, admin))
    value = read_configuration(data_dir)
    value["objects"] = {"source": "kubernetes", "kubernetes": {"kubeconfig": path.name}}
    write_configuration(data_dir, value)
    port = int(value["server"]["bind"].rpartition(":")[2])
    return serve(data_dir, port)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
