"""Asks the endpoints of etcd over HTTP/1.1 what its gRPC does not say: clocks, quota, proxies."""

import ssl
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import sleep, time
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from keys.messages import shown
from webhook.doctor.clock import Sample, estimate_offset
from webhook.doctor.etcd_members import WebFacts

_TIMEOUT_SECONDS: Final = 2.0
_MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_ROUNDS: Final = 5
# Not a simple fraction of a second; see the clock of the API server in remote.py.
_PAUSE_SECONDS: Final = 0.23
_MEMBER: Final = 'etcd_server_id{server_id="'
_QUOTA: Final = "etcd_server_quota_backend_bytes "


class _Page(NamedTuple):
    status: int
    body: str
    server: str
    sample: Sample


def ask(endpoints: Iterable[str], context: ssl.SSLContext | None) -> list[WebFacts]:
    """Return what each endpoint that speaks HTTP/1.1 answers, on several connections each.

    ``context`` is for https. Takes about a second.
    """
    pages: dict[str, list[_Page]] = {endpoint: [] for endpoint in endpoints}
    proxies = {endpoint: _get(endpoint, "/proxy/health", context) for endpoint in pages}
    for turn in range(_ROUNDS):
        if turn:
            sleep(_PAUSE_SECONDS)
        for endpoint, found in pages.items():
            page = _get(endpoint, "/metrics", context)
            if page is not None:
                found.append(page)
    return [_facts(name, found, proxies[name]) for name, found in pages.items() if found]


def _facts(endpoint: str, pages: list[_Page], proxy: _Page | None) -> WebFacts:
    kind = ""
    if proxy is not None and proxy.status != 404:  # etcd has no such page
        kind = "etcd's grpc-proxy"
    elif servers := [page.server for page in pages if page.server]:
        kind = f"a proxy, {shown(servers[0])}"  # etcd sends no such header
    lines = [line for page in pages if page.status == 200 for line in page.body.splitlines()]
    return WebFacts(
        endpoint,
        frozenset(line[len(_MEMBER) :].partition('"')[0] for line in lines if _is_of(line)),
        kind,
        max((_number(line) for line in lines if line.startswith(_QUOTA)), default=0),
        estimate_offset(page.sample for page in pages),
    )


def _is_of(line: str) -> bool:
    return line.startswith(_MEMBER)


def _number(line: str) -> int:
    try:
        return int(float(line[len(_QUOTA) :]))
    except (ValueError, OverflowError):
        return 0


def _get(endpoint: str, path: str, context: ssl.SSLContext | None) -> _Page | None:
    """Request a page on a new connection; None where nothing answers in HTTP/1.1."""
    address = urlsplit(endpoint)
    host, port = address.hostname or "", address.port
    if address.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(
            host, port, timeout=_TIMEOUT_SECONDS, context=context
        )
    else:
        connection = HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        with closing(connection):
            connection.connect()
            sent = time()
            connection.request("GET", path)
            response = connection.getresponse()
            sample = Sample(response.getheader("Date", ""), sent, time())
            body = response.read(_MAX_BODY_BYTES).decode("utf-8", "replace")
            server = response.getheader("Server", "") or response.getheader("Via", "")
            return _Page(response.status, body, server, sample)
    except (OSError, HTTPException):
        return None
