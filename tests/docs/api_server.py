"""The API server that ``leeway doctor --api-server`` asks on the pages; it admits nobody.

Its clock is ahead by as many seconds as the file ``ahead`` says. It serves on the port of the pages
until it is killed, and writes its CA to ``ca.crt``.
"""

import ssl
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time
from typing import Final

from keys.pki import make_ca, make_server_certificate

ADDRESS: Final = ("127.0.0.1", 6443)
AHEAD: Final = Path("ahead")


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with 401 and the date of its clock."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        ahead = float(AHEAD.read_text()) if AHEAD.exists() else 0
        return formatdate((timestamp or time()) + ahead, usegmt=True)

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Write nothing."""


def main() -> None:
    """Serve. The file of the CA is there once connections are accepted."""
    now = datetime.now(UTC)
    ca = make_ca("kubernetes", now)
    pair = make_server_certificate(ca, "kube-apiserver", [ADDRESS[0]], now)
    Path("api.pem").write_bytes(pair.certificate + pair.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("api.pem")
    with ThreadingHTTPServer(ADDRESS, Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Path("ca.crt").write_bytes(ca.certificate)
        server.serve_forever()


if __name__ == "__main__":
    main()
