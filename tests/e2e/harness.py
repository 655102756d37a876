"""A server as users run it, and clients to talk to it."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from keys.pki import CertifiedKey, make_client_certificate
from tests.secrets_made import answered, folder_made, shown, token_made
from webhook.assembly import keyring_of, policy_of
from webhook.config.load import load_configuration
from webhook.config.paths import read_pair
from webhook.setup.init import InitOptions, initialise
from webhook.token.issuer import TokenSpec, issue_token

LEEWAY = str(Path(sys.executable).with_name("leeway"))
HOST = "127.0.0.1"
AUDIENCE = "https://kubernetes.default.svc"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
REVIEWS_BETA = "/apis/authentication.k8s.io/v1beta1/tokenreviews"
TIMEOUT = 15.0
_START_SECONDS = 20.0
_STOP_SECONDS = 30.0
_NO_CERTIFICATE = ""
# Tested elsewhere.
HEAD_WARNING = "ASGI app sent body bytes on a no-body response"
_CONFIGURATION = """\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
issuer: https://leeway.default.svc
audiences: [{audience}]
server: {{bind: "{host}:{port}", workers: 2}}
"""


@dataclass(frozen=True)
class Answer:
    """A complete HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class RunningServer:
    """``leeway serve`` in a process of its own, with a data directory of its own."""

    data_dir: Path
    port: int
    log_file: Path
    process: subprocess.Popen[bytes]
    tokens: list[str] = field(default_factory=list)

    def context(self, user: str = "kube-apiserver") -> ssl.SSLContext:
        """Return a TLS context with the certificate of a user, or with none for an empty name."""
        context = ssl.create_default_context(cafile=self.data_dir / "tls" / "ca.crt")
        if user:
            folder = self.data_dir / "tls"
            context.load_cert_chain(folder / f"{user}.crt", folder / f"{user}.key")
        return context

    @cached_property
    def ca(self) -> CertifiedKey:
        return read_pair(self.data_dir / "tls", "ca")

    def context_of(self, certified: CertifiedKey, folder: Path) -> ssl.SSLContext:
        """Return a TLS context with any certificate."""
        for name, data in (("c.crt", certified.certificate), ("c.key", certified.private_key)):
            (folder / name).write_bytes(data)
        context = self.context(_NO_CERTIFICATE)
        context.load_cert_chain(folder / "c.crt", folder / "c.key")
        return context

    def client_certificate(self, user: str, now: datetime) -> CertifiedKey:
        """Make a client certificate as ``init`` does, at any time."""
        return make_client_certificate(self.ca, user, now)

    def sign(
        self, name: str = "default", ahead: int = 0, audiences: Sequence[str] = (), uid: str = ""
    ) -> str:
        """Sign a token with the clock ``ahead`` seconds off."""
        configuration = load_configuration(self.data_dir, {}, {})
        request = TokenSpec("demo", name, uid=uid, audiences=audiences)
        issued = issue_token(
            request, policy_of(configuration), keyring_of(self.data_dir), int(time.time()) + ahead
        )
        self.tokens.append(issued.token)
        token_made(issued.token)
        return issued.token

    def plain_connection(self) -> socket.socket:
        """Open a connection without TLS."""
        return socket.create_connection((HOST, self.port), timeout=TIMEOUT)

    @contextmanager
    def connect(self, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
        """Open a TLS connection."""
        context = context or self.context()
        with (
            self.plain_connection() as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secure,
        ):
            yield secure

    def exchange(self, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
        """Send bytes and return all that comes back until the server closes."""
        with self.connect(context) as connection:
            connection.sendall(data)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        shown("an answer to bytes that are no request or several", answer)
        return answer

    @contextmanager
    def client(
        self, context: ssl.SSLContext | None = None
    ) -> Iterator[http.client.HTTPSConnection]:
        """Open a connection that is kept alive."""
        with closing(
            http.client.HTTPSConnection(
                HOST, self.port, context=context or self.context(), timeout=TIMEOUT
            )
        ) as connection:
            yield connection

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        with self.client(context) as connection:
            return request_on(connection, method, path, body, headers)

    def post_review(
        self,
        token: object,
        audiences: Sequence[str] | None = None,
        version: str = "v1",
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """Post a TokenReview of a version."""
        path = REVIEWS if version == "v1" else REVIEWS_BETA
        return self.post(path, review_of(token, audiences, version), context)

    def post(self, path: str, value: object, context: ssl.SSLContext | None = None) -> Answer:
        """Post any JSON value."""
        body = json.dumps(value).encode()
        return self.request("POST", path, body, {"Content-Type": "application/json"}, context)

    def log(self) -> str:
        return self.log_file.read_text()

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def both_workers(self) -> list[int]:
        """Wait for both to serve: the first answers before the second has read its files."""
        deadline = time.monotonic() + 30
        while not (len(workers := self.workers()) == 2 and all(map(_is_serving, workers))):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        return workers

    def has_replaced(self, victim: int) -> bool:
        """Return whether another worker serves in place of one that was killed."""
        workers = self.workers()
        return len(workers) == 2 and victim not in workers and all(map(_is_serving, workers))

    def stop(self, expected_trouble: str = "") -> float:
        """Send SIGTERM, check that the server stops cleanly, and return the seconds it took.

        Lines of the log that hold ``expected_trouble``, a regular expression, are no trouble.
        """
        folder_made(self.data_dir)
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(_STOP_SECONDS) == 0, self.log()
        seconds = time.monotonic() - started
        trouble = trouble_in(self.log())
        if expected_trouble:
            trouble = [line for line in trouble if not re.search(expected_trouble, line)]
        assert trouble == [], "\n".join(trouble)
        return seconds


def _is_serving(pid: int) -> bool:
    """Return whether a worker has started its threads that watch files."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 2
    except FileNotFoundError:
        return False


def trouble_in(log: str) -> list[str]:
    """Return the lines of a log that no request should cause, or that are not JSON."""
    return [line for line in log.splitlines() if _is_trouble(line)]


def _is_trouble(line: str) -> bool:
    try:
        level = json.loads(line)["level"]
    except (ValueError, TypeError, KeyError):
        return True
    return (
        level not in ("debug", "info") or re.search(r"Traceback|never retrieved", line) is not None
    )


def records_of(log: str) -> list[dict[str, Any]]:
    """Return the records of a log; every line must be one."""
    return [json.loads(line) for line in log.splitlines()]


def review_of(
    token: object, audiences: Sequence[str] | None = None, version: str = "v1"
) -> dict[str, object]:
    """Return a TokenReview as kube-apiserver sends it."""
    spec: dict[str, object] = {"token": token}
    if audiences is not None:
        spec["audiences"] = list(audiences)
    return {
        "kind": "TokenReview",
        "apiVersion": f"authentication.k8s.io/{version}",
        "metadata": {"creationTimestamp": None},
        "spec": spec,
        "status": {"user": {}},
    }


def request_on(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request and read its answer to the end. Bodies of etcd's API are said to be JSON."""
    sent = dict(headers or {})
    if path.startswith("/v3/"):
        sent.setdefault("Content-Type", "application/json")
    connection.request(method, path, body, sent)
    response = connection.getresponse()
    names = {name.lower(): value for name, value in response.getheaders()}
    answer = Answer(response.status, names, response.read())
    answered(method, path, names, answer.body)
    return answer


def raw_review(token: str) -> bytes:
    """Return the bytes of a complete request with a review."""
    body = json.dumps(review_of(token)).encode()
    head = (
        f"POST {REVIEWS} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def start_server(
    folder: Path,
    prepare: Callable[[Path], None] = lambda _data_dir: None,
    *,
    algorithm: str = "RS256",
    environment: Mapping[str, str] | None = None,
    readyz: int = 200,
    program: Sequence[str | Path] = (LEEWAY,),
) -> RunningServer:
    """Make a data directory, ``prepare`` it, run ``leeway serve``, wait for a status of /readyz.

    ``environment`` is set for the server, beside what is set already; ``program`` is what serves.
    """
    port = free_port()
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700)
    configuration = _CONFIGURATION.format(audience=AUDIENCE, host=HOST, port=port)
    (data_dir / "leeway.yaml").write_text(configuration)
    initialise(data_dir, InitOptions(algorithm=algorithm), time.time(), os.environ)
    prepare(data_dir)
    return serve(data_dir, port, environment, readyz, program)


def serve(
    data_dir: Path,
    port: int,
    environment: Mapping[str, str] | None = None,
    readyz: int = 200,
    program: Sequence[str | Path] = (LEEWAY,),
) -> RunningServer:
    """Run ``leeway serve`` as ``start_server`` does; once more, where one ran before."""
    log_file = data_dir.parent / "server.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [*program, "serve", "--data-dir", data_dir],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    folder_made(data_dir)
    server = RunningServer(data_dir, port, log_file, process)
    try:
        wait_until_ready(server, readyz)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return server


def wait_until_ready(server: RunningServer, readyz: int = 200) -> None:
    context = server.context(_NO_CERTIFICATE)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.request("GET", "/readyz", context=context).status == readyz:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the server did not become ready:\n{server.log()}")
