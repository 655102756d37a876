"""An issuer on an HTTPS server, which misbehaves as a test asks."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from keys.jwk import jwks_document
from keys.jws import SigningKey
from keys.pki import CertifiedKey, make_ca, make_server_certificate

HOST = "127.0.0.1"
JWKS_PATH = "/openid/v1/jwks"
DISCOVERY_PATH = "/.well-known/openid-configuration"
Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Request:
    path: str
    headers: dict[str, str]


@dataclass
class IssuerServer:
    """What is served by path, and which paths were requested.

    The issuer is called ``https://HOST:PORT``; whoever trusts ``ca_file`` can reach it.
    """

    port: int
    ca_file: Path
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def jwks_url(self) -> str:
        return self.url + JWKS_PATH

    @property
    def discovery_url(self) -> str:
        return self.url + DISCOVERY_PATH

    def publish(self, *keys: SigningKey, max_age: int = 3600) -> None:
        """Serve a discovery document and the public keys."""
        self.serve(JWKS_PATH, jwks_document(k.verification_key for k in keys), max_age)
        self.serve_discovery()

    def serve_discovery(self, **changes: object) -> None:
        members = {"issuer": self.url, "jwks_uri": self.jwks_url} | changes
        self.serve(DISCOVERY_PATH, json.dumps({n: v for n, v in members.items() if v}).encode())

    def serve(self, path: str, body: bytes, max_age: int = 3600) -> None:
        self.behaviours[path] = answer(body, headers={"Cache-Control": f"max-age={max_age}"})

    def asked(self, path: str = JWKS_PATH) -> int:
        return sum(request.path == path for request in self.requests)


def answer(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Behaviour:
    """Send a complete, correct answer."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def raw(*parts: bytes, pause: float = 0.0) -> Behaviour:
    """Send bytes as they are, with a pause after each part, and end the TLS session in order."""
    gone = threading.Event()

    def behave(handler: BaseHTTPRequestHandler) -> None:
        for part in parts:
            handler.wfile.write(part)
            handler.wfile.flush()
            if pause:
                gone.wait(pause)
        handler.connection.settimeout(1)
        with suppress(OSError):
            handler.connection.unwrap()

    return behave


def cut(data: bytes) -> Behaviour:
    """Send bytes and then nothing more, without an end of the TLS session."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(data)

    return behave


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the tests are about clients that refuse the server or disconnect."""


def ca_and_certificate(*hosts: str, now: datetime | None = None) -> tuple[CertifiedKey, bytes]:
    """Return a server certificate for some hosts, and the CA that signed it."""
    now = now or datetime.now(UTC)
    ca = make_ca("issuer of the tests", now)
    return make_server_certificate(ca, "issuer", hosts or (HOST,), now), ca.certificate


@contextmanager
def issuer_server(
    folder: Path, certified: CertifiedKey | None = None, ca: bytes = b"", port: int = 0
) -> Iterator[IssuerServer]:
    """Run a server; its certificate and its CA are written to ``folder``."""
    if certified is None:
        certified, ca = ca_and_certificate()
    (folder / "issuer.crt").write_bytes(certified.certificate)
    (folder / "issuer.key").write_bytes(certified.private_key)
    (folder / "issuer-ca.crt").write_bytes(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "issuer.crt", folder / "issuer.key")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.requests.append(Request(self.path, dict(self.headers)))
            self.close_connection = True
            served.behaviours.get(self.path, answer(b"", 404))(self)

        def log_message(self, *_: object) -> None:
            """Say nothing: a test looks at ``requests``."""

    server = _Server((HOST, port), Handler)
    # The handshake is left to the thread of the connection.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    served = IssuerServer(server.server_address[1], folder / "issuer-ca.crt")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
