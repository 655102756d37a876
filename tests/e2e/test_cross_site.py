"""Row 63: pages of other sites, in a browser that holds root's certificate, change nothing."""

import json
from collections.abc import Iterator

import pytest

from .auth import ROOT, call
from .harness import HOST, REVIEWS, Answer, RunningServer, review_of, start_server

pytestmark = pytest.mark.fault(56)
DISABLE = "/v3/auth/disable"
TOKEN = "/api/v1/namespaces/argo-run/serviceaccounts/loofah/token"
OTHER_SITE = "so a web page of another site has caused this request"
# What a form, or a page's fetch() without a preflight request (CORS), can send.
FORMS = {
    "text": "text/plain",
    "urlencoded": "application/x-www-form-urlencoded",
    "multipart": "multipart/form-data; boundary=x",
    "json in text": "text/plain; application/json",
    "missing": None,
}
FOREIGN = {
    "origin": {"Origin": "https://evil.example"},
    "null": {"Origin": "null"},
    "http": {"Origin": "http://127.0.0.1:{port}"},
    "other port": {"Origin": "https://127.0.0.1:1"},
    "prefix": {"Origin": "https://127.0.0.1:{port}.evil.example"},
    "empty": {"Origin": ""},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "both": {"Origin": "https://127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
}
OWN = {
    "origin": {"Origin": "https://127.0.0.1:{port}"},
    "both": {"Origin": "https://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"},
    "by the user": {"Sec-Fetch-Site": "none"},
    "a program": {},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("sites"))
    yield running
    running.stop()


def send(
    server: RunningServer,
    path: str,
    headers: dict[str, str],
    body: bytes = b"{}",
    method: str = "POST",
) -> Answer:
    """Send exactly these header fields, with root's certificate."""
    lines = [f"{name}: {value.format(port=server.port)}" for name, value in headers.items()]
    head = "\r\n".join(
        [
            f"{method} {path} HTTP/1.1",
            f"Host: {HOST}:{server.port}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *lines,
        ]
    )
    raw = server.exchange(head.encode() + b"\r\n\r\n" + body, server.context(ROOT))
    start, _, rest = raw.partition(b"\r\n\r\n")
    return Answer(int(start.split(b" ")[1]), {}, rest)


def assert_auth_is_enabled(server: RunningServer) -> None:
    assert call(server, "status", {}, ROOT).json["enabled"] is True


@pytest.mark.bad_input(63)
@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("site", [{}, *FOREIGN.values()], ids=["old browser", *FOREIGN])
def test_no_form_reaches_etcds_api(
    server: RunningServer, kind: str | None, site: dict[str, str]
) -> None:
    headers = site if kind is None else site | {"Content-Type": kind}
    answer = send(server, DISABLE, headers)
    assert answer.status == (403 if site else 415)
    assert answer.json.keys() == {"code", "message"}
    assert answer.json["code"] == (7 if site else 3)
    assert (OTHER_SITE if site else "application/json") in answer.json["message"]
    assert_auth_is_enabled(server)


@pytest.mark.bad_input(63)
@pytest.mark.parametrize("site", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("path", [DISABLE, TOKEN, REVIEWS, "/livez", "/no/such"])
def test_json_of_another_site_is_refused_everywhere(
    server: RunningServer, path: str, site: dict[str, str]
) -> None:
    body = json.dumps(review_of(server.sign())).encode() if path == REVIEWS else b"{}"
    answer = send(server, path, site | {"Content-Type": "application/json"}, body)
    assert answer.status == 403
    assert OTHER_SITE in answer.json["message"]
    if not path.startswith("/v3/"):
        assert (answer.json["kind"], answer.json["reason"]) == ("Status", "Forbidden")
    assert_auth_is_enabled(server)


@pytest.mark.bad_input(63)
def test_each_of_two_origins_is_checked(server: RunningServer) -> None:
    own = {"Origin": "https://127.0.0.1:{port}", "origin": "https://evil.example"}
    answer = send(server, DISABLE, own | {"Content-Type": "application/json"})
    assert (answer.status, answer.json["code"]) == (403, 7)
    assert_auth_is_enabled(server)


@pytest.mark.bad_input(63)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods(server: RunningServer, method: str) -> None:
    headers = FOREIGN["origin"] | {"Content-Type": "application/json"}
    assert send(server, DISABLE, headers, method=method).status == 403
    assert_auth_is_enabled(server)


@pytest.mark.parametrize("site", OWN.values(), ids=OWN)
def test_pages_of_this_server_and_programs_are_served(
    server: RunningServer, site: dict[str, str]
) -> None:
    headers = site | {"Content-Type": "application/json"}
    assert send(server, "/v3/auth/status", headers).status == 200
    review = json.dumps(review_of(server.sign())).encode()
    assert send(server, REVIEWS, headers, review).status == 201


@pytest.mark.parametrize("site", FOREIGN.values(), ids=FOREIGN)
def test_reading_is_not_refused(server: RunningServer, site: dict[str, str]) -> None:
    assert send(server, "/version", site, b"", "GET").status == 200
