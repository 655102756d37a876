"""A fake API server: ServiceAccounts, Pods, Secrets and Nodes over real HTTPS.

It lists in pages, watches with bookmarks, forgets old events, renders metadata alone where
that is asked for, and can be slow, silent, wrong, or away.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from keys.pki import make_ca, make_client_certificate, make_server_certificate
from webhook.setup.kubeconfig import kubeconfig
from webhook.token.bound_objects import Kind, ObjectKey

HOST = "127.0.0.1"
CLIENT = "leeway"
PLURALS = {
    Kind.SERVICE_ACCOUNT: "serviceaccounts",
    Kind.POD: "pods",
    Kind.SECRET: "secrets",
    Kind.NODE: "nodes",
}
KINDS = {plural: kind for kind, plural in PLURALS.items()}
SECRET_DATA = "bm90IGZvciBMZWV3YXk="
_PARTIAL = "as=PartialObjectMetadata"

JSONObject = dict[str, Any]


def stamp(seconds: float) -> str:
    """Return a time as API servers write it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Request:
    """A request as it was received."""

    path: str
    query: dict[str, str]
    accept: str
    user: str

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "1"

    @property
    def is_look_up(self) -> bool:
        return self.path.rpartition("/")[2] not in KINDS


@dataclass
class FakeKube:
    """The state of an API server, and the faults to switch on."""

    page_size: int = 500
    # Paths to the status and the body of their answer.
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    # Called with each request; may wait, and may answer it with a status and a body.
    before: Callable[[Request], tuple[int, bytes] | None] = lambda _request: None
    silent: bool = False
    gone_as_status: bool = False
    ignores_accept: bool = False
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        self.ca = make_ca("fake-kube", now)
        self._certified = make_server_certificate(self.ca, "fake-kube", [HOST], now)
        self.client = make_client_certificate(self.ca, CLIENT, now)
        self.changed = threading.Condition()
        self.objects: dict[ObjectKey, JSONObject] = {}
        self.version = 1000
        self.events: list[tuple[int, str, str, JSONObject]] = []
        self.oldest = 0
        self.generation = 0
        self.lists: dict[str, tuple[int, list[JSONObject]]] = {}
        self._server: _Server | None = None

    # Objects -----------------------------------------------------------------------------------

    def put(
        self,
        key: ObjectKey,
        uid: str,
        *,
        deleted_at: float | None = None,
        labels: dict[str, str] | None = None,
        spec: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Create an object, or update it if one with that UID exists."""
        metadata: JSONObject = {"name": key.name, "uid": uid}
        if key.namespace:
            metadata["namespace"] = key.namespace
        if deleted_at is not None:
            metadata["deletionTimestamp"] = stamp(deleted_at)
        if labels:
            metadata["labels"] = labels
        whole = {"kind": str(key.kind), "apiVersion": "v1", "metadata": metadata}
        if key.kind is Kind.POD:
            whole["spec"] = {"containers": [], **spec}
        if key.kind is Kind.SECRET:
            whole["data"] = {"password": SECRET_DATA}
        with self.changed:
            old = self.objects.get(key)
            if old is not None and old["metadata"]["uid"] != uid:
                self.delete(key)
                old = None
            self._happen("ADDED" if old is None else "MODIFIED", key, whole)
            self.objects[key] = whole

    def delete(self, key: ObjectKey) -> None:
        """Delete an object for good."""
        with self.changed:
            self._happen("DELETED", key, self.objects.pop(key))

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        with self.changed:
            self.version += 1
            for plural in KINDS:
                self.events.append((self.version, plural, "BOOKMARK", {}))
            self.changed.notify_all()

    def compact(self) -> None:
        """Forget every event, so that a client that has missed one must list again."""
        with self.changed:
            # A change of an object that is not watched.
            self.version += 1
            self.events.clear()
            self.oldest = self.version

    def _happen(self, kind: str, key: ObjectKey, whole: JSONObject) -> None:
        with self.changed:
            self.version += 1
            metadata = whole["metadata"] | {"resourceVersion": str(self.version)}
            whole["metadata"] = metadata
            self.events.append((self.version, PLURALS[key.kind], kind, dict(whole)))
            self.changed.notify_all()

    # Connections --------------------------------------------------------------------------------

    def up(self) -> None:
        """Listen, at the same port as before."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(cadata=self.ca.certificate.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        self._load(context)
        server = _Server((HOST, self.port), _Handler)
        server.fake = self
        server.context = context
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def _load(self, context: ssl.SSLContext) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            pair = Path(folder) / "pair.pem"
            pair.write_bytes(self._certified.certificate + self._certified.private_key)
            context.load_cert_chain(pair)

    def down(self) -> None:
        """Refuse new connections and break off the open ones."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self.break_off()
            server.break_off()

    def break_off(self) -> None:
        """Break off every watch."""
        with self.changed:
            self.generation += 1
            self.changed.notify_all()

    def kubeconfig(self) -> bytes:
        """Return a kubeconfig with the client's certificate in it."""
        return kubeconfig(f"https://{HOST}:{self.port}", self.ca.certificate, CLIENT, self.client)

    def asked(self, path: str = "", **query: str) -> list[Request]:
        """Return the requests for a path with at least this query."""
        return [
            r
            for r in list(self.requests)
            if r.path.startswith(path) and query.items() <= r.query.items()
        ]

    def look_ups(self) -> list[str]:
        """Return the paths of all requests for single objects."""
        return [request.path for request in list(self.requests) if request.is_look_up]


@contextmanager
def fake_kube(**switches: Any) -> Iterator[FakeKube]:
    """Run an API server."""
    fake = FakeKube(**switches)
    fake.up()
    try:
        yield fake
    finally:
        fake.silent = False
        fake.down()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    fake: FakeKube
    context: ssl.SSLContext

    def __init__(self, *arguments: Any) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = super().get_request()
        # The handshake is left to the thread of the connection.
        secure = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.open.add(secure)
        return secure, address

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def break_off(self) -> None:
        for connection in list(self.open):
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: clients disconnect, and a wrong answer shows at the client."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.server.fake
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        request = Request(url.path, query, self.headers["Accept"], self._user())
        with fake.changed:
            fake.requests.append(request)
            self._generation = fake.generation
        answer = fake.before(request) or fake.answers.get(url.path)
        if answer is not None:
            self._answer(*answer)
        elif not request.user:
            self._status(401, "Unauthorized", "Unauthorized")
        elif request.is_watch:
            self._watch(request)
        elif request.is_look_up:
            self._look_up(request)
        else:
            self._list(request)

    def _user(self) -> str:
        certificate: Any = self.connection.getpeercert()
        if certificate:
            return str(certificate["subject"][0][0][1])
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _look_up(self, request: Request) -> None:
        parts = request.path.split("/")[3:]
        plural, name = parts[-2], parts[-1]
        namespace = parts[1] if len(parts) == 4 else ""
        with self.server.fake.changed:
            whole = self.server.fake.objects.get(ObjectKey(KINDS[plural], namespace, name))
        if whole is None:
            self._status(404, "NotFound", f'{plural} "{name}" not found')
        else:
            self._json(200, self._rendered(request, whole))

    def _list(self, request: Request) -> None:
        fake = self.server.fake
        plural = request.path.rpartition("/")[2]
        more = request.query.get("continue", "")
        size = min(fake.page_size, int(request.query["limit"]))
        with fake.changed:
            if more:
                token, _, place = more.partition(".")
                if token not in fake.lists:
                    self._status(410, "Expired", "The provided continue parameter is too old")
                    return
                version, items = fake.lists[token]
                start = int(place)
            else:
                version, start, token = fake.version, 0, str(len(fake.lists))
                items = [o for key, o in fake.objects.items() if PLURALS[key.kind] == plural]
                fake.lists[token] = (version, items)
        metadata = {"resourceVersion": str(version)}
        if start + size < len(items):
            metadata["continue"] = f"{token}.{start + size}"
        shown = [self._rendered(request, whole) for whole in items[start : start + size]]
        partial = _PARTIAL in request.accept and not fake.ignores_accept
        if not partial:
            # As API servers do, which omit both in the items of a list.
            shown = [{k: v for k, v in o.items() if k not in ("kind", "apiVersion")} for o in shown]
        kind = "PartialObjectMetadataList" if partial else f"{KINDS[plural]}List"
        self._json(200, {"kind": kind, "metadata": metadata, "items": shown})

    def _watch(self, request: Request) -> None:
        fake = self.server.fake
        plural = request.path.rpartition("/")[2]
        seen = int(request.query["resourceVersion"])
        deadline = time.monotonic() + int(request.query["timeoutSeconds"])
        if seen < fake.oldest and fake.gone_as_status:
            self._status(410, "Expired", "too old resource version")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if seen < fake.oldest:
            status = {"kind": "Status", "code": 410, "message": "too old resource version"}
            self._chunk({"type": "ERROR", "object": status})
            self._chunk(None)
            return
        generation = self._generation

        def news() -> list[tuple[int, str, str, JSONObject]]:
            if fake.silent:
                return []
            return [event for event in fake.events if event[0] > seen and event[1] == plural]

        while time.monotonic() < deadline or fake.silent:
            with fake.changed:
                left = deadline - time.monotonic()
                fake.changed.wait_for(
                    lambda: fake.generation != generation or news(),
                    left if 0 < left < 0.1 else 0.1,
                )
                if fake.generation != generation:
                    self.close_connection = True
                    return
                found = news()
            for version, _, kind, whole in found:
                self._send_event(request, kind, whole, version)
                seen = version
        self._send_event(request, "BOOKMARK", {}, max(seen, fake.version))
        self._chunk(None)

    def _send_event(self, request: Request, kind: str, whole: JSONObject, version: int) -> None:
        if kind == "BOOKMARK":
            name = str(KINDS[request.path.rpartition("/")[2]])
            whole = {"kind": name, "metadata": {"resourceVersion": str(version)}}
        self._chunk({"type": kind, "object": self._rendered(request, whole)})

    def _rendered(self, request: Request, whole: JSONObject) -> JSONObject:
        if _PARTIAL not in request.accept or self.server.fake.ignores_accept:
            return whole
        return {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": whole["metadata"],
        }

    def _status(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "status": "Failure", "reason": reason, "message": message}
        self._json(code, status | {"code": code})

    def _json(self, code: int, value: object) -> None:
        self._answer(code, json.dumps(value).encode())

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, value: object) -> None:
        data = b"" if value is None else json.dumps(value).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
