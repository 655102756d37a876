"""A TLS connection in memory, between the server's context and kube-apiserver's certificate."""

import ssl
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load_client import API_SERVER_QUERY
from benchmarks.servers import HOST
from webhook.config.paths import TLS_FOLDER, tls_files
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.server.connection.tls import load_context
from webhook.setup.first_records import API_SERVER_USER


class MemoryConnection:
    """Both ends of a connection whose handshake is done. ``server`` is the server's."""

    def __init__(self, data_dir: Path) -> None:
        folder = data_dir / TLS_FOLDER
        context = ssl.create_default_context(cafile=folder / "ca.crt")
        own = folder / API_SERVER_USER
        context.load_cert_chain(own.with_suffix(".crt"), own.with_suffix(".key"))
        self._to_server, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_context = load_context(tls_files(data_dir))
        self._client = context.wrap_bio(self._to_client, self._to_server, server_hostname=HOST)
        self.server = server_context.wrap_bio(self._to_server, self._to_client, server_side=True)
        waiting = [self._client, self.server]
        while waiting:
            end = waiting.pop(0)
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting.append(end)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    def nanoseconds(self, requests: Sequence[bytes], answer: bytes) -> float:
        """Return what the server's end takes to read a request and to write the answer."""
        records = []
        for request in requests:
            self._client.write(request)
            records.append(self._to_server.read())
        read, write = self.server.read, self.server.write
        put, take = self._to_server.write, self._to_client.read
        started = time.thread_time_ns()
        for record in records:
            put(record)
            read(65_536)
            write(answer)
            take()
        return (time.thread_time_ns() - started) / len(records)


def request_bytes(body: bytes) -> bytes:
    """Render the request as the load client sends it."""
    head = (
        f"POST {TOKEN_REVIEW_PATH}{API_SERVER_QUERY} HTTP/1.1\r\nHost: {HOST}:8443\r\n"
        f"User-Agent: load_client\r\nContent-Length: {len(body)}\r\n"
        "Accept: application/json, */*\r\nContent-Type: application/json\r\n\r\n"
    )
    return head.encode("ascii") + body


def answer_bytes(body: bytes) -> bytes:
    """Render an answer of the server, with the head that the connection gives it."""
    head = (
        "HTTP/1.1 201 Created\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "Server: leeway\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
    )
    return head.encode("ascii") + body
