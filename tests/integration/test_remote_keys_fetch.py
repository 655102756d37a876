"""Fetching keys from a real HTTPS server that misbehaves: bad input 40."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from keys.jwk import jwks_document
from keys.pki import CertifiedKey, make_ca, make_client_certificate
from tests.issuer_server import (
    HOST,
    JWKS_PATH,
    Behaviour,
    IssuerServer,
    answer,
    ca_and_certificate,
    cut,
    issuer_server,
    raw,
)
from tests.support import assert_within, signing_key
from webhook.errors import KeysUnavailableError
from webhook.https_url import parse_https_url
from webhook.outbound.https import Deadline
from webhook.trusted_issuers import fetching
from webhook.trusted_issuers.fetching import MAX_SECONDS, KeyLocation

RSA, EC = signing_key("RS256"), signing_key("ES256")
DOCUMENT = jwks_document([RSA.verification_key])
MEGABYTE = 1024 * 1024
SHORT = 0.4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[IssuerServer]:
    with issuer_server(tmp_path) as served:
        served.publish(RSA)
        yield served


def location(
    server: IssuerServer, url: str = "", *, discovery: bool = False, token_file: Path | None = None
) -> KeyLocation:
    url = url or (server.discovery_url if discovery else server.jwks_url)
    address = parse_https_url(url)
    return KeyLocation(server.url, address, discovery, server.ca_file, token_file)


def refused(where: KeyLocation) -> str:
    with pytest.raises(KeysUnavailableError) as raised:
        where.fetch()
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 800
    return text


@pytest.mark.parametrize("discovery", [False, True])
def test_keys_are_fetched(server: IssuerServer, discovery: bool) -> None:
    server.publish(RSA, EC, max_age=1200)
    fetched = location(server, discovery=discovery).fetch()
    assert [key.kid for key in fetched.keys] == [k.verification_key.kid for k in (RSA, EC)]
    assert fetched.refresh_after == 1200
    assert server.asked() == 1
    (request,) = [r for r in server.requests if r.path == JWKS_PATH]
    assert request.headers["Host"] == f"{HOST}:{server.port}"
    assert "Authorization" not in request.headers


def test_host_name_and_query(tmp_path: Path) -> None:
    with issuer_server(tmp_path, *ca_and_certificate("localhost")) as server:
        server.serve("/keys?appid=1", DOCUMENT)
        url = f"https://LOCALHOST:{server.port}/keys?appid=1"
        assert location(server, url).fetch().keys
        assert server.requests[0].headers["Host"] == f"localhost:{server.port}"


@pytest.mark.bad_input(40)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target",
    ["http://{host}:{port}/moved", "https://localhost:{port}/moved", "https://{host}:1/moved",
     "https://{host}:{port}/moved", "/moved", "//evil.example/moved"],
)  # fmt: skip
def test_redirects_are_not_followed(server: IssuerServer, status: int, target: str) -> None:
    server.serve("/moved", DOCUMENT)
    target = target.format(host=HOST, port=server.port)
    server.behaviours[JWKS_PATH] = answer(DOCUMENT, status, {"Location": target})
    text = refused(location(server))
    assert f"answered {status}" in text
    assert "redirects are not followed" in text
    assert len(server.requests) == 1


def padded(size: int) -> bytes:
    members = json.loads(DOCUMENT) | {"pad": ""}
    empty = json.dumps(members, separators=(",", ":")).encode()
    members["pad"] = "x" * (size - len(empty))
    document = json.dumps(members, separators=(",", ":")).encode()
    assert len(document) == size
    return document


def by_length(body: bytes) -> Behaviour:
    return answer(body)


def chunked(body: bytes) -> Behaviour:
    chunks = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", framed, b"0\r\n\r\n")


def one_byte_chunks(body: bytes) -> Behaviour:
    framed = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", framed, b"0\r\n\r\n")


@pytest.mark.parametrize("framing", [by_length, chunked])
def test_a_megabyte_is_allowed(server: IssuerServer, framing: Callable[[bytes], Behaviour]) -> None:
    server.behaviours[JWKS_PATH] = framing(padded(MEGABYTE))
    assert location(server).fetch().keys


@pytest.mark.bad_input(40)
@pytest.mark.parametrize("framing", [by_length, chunked, one_byte_chunks])
def test_a_megabyte_and_a_byte(server: IssuerServer, framing: Callable[[bytes], Behaviour]) -> None:
    server.behaviours[JWKS_PATH] = framing(padded(MEGABYTE + 1))
    assert "1048576 bytes" in refused(location(server))


@pytest.mark.bad_input(40)
def test_a_body_without_end(server: IssuerServer) -> None:
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    server.behaviours[JWKS_PATH] = endless
    assert "1048576 bytes" in refused(location(server))
    # Bytes sent before the cut are still in buffers.
    assert sum(sent) < 16 * MEGABYTE


HEADS = [
    pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "not HTTP", id="a-line"),
    pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 101 + b"\r\n", "not HTTP", id="101"),
    pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 500_000, "not HTTP", id="no-end"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 60_000, "bytes", id="continue-for-ever"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "not HTTP", id="cut-short"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not JSON", id="below-0"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "larger", id="a-lie"
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP", id="chunk"
    ),
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP", id="ssh"),
    pytest.param(b"", "was cut", id="nothing"),
    pytest.param(b"\x00" * 100, "not HTTP", id="nul"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "gzip",
        id="gzip",
    ),
]  # fmt: skip


@pytest.mark.bad_input(40)
@pytest.mark.parametrize(("data", "why"), HEADS)
def test_answers_that_are_not_http(server: IssuerServer, data: bytes, why: str) -> None:
    server.behaviours[JWKS_PATH] = raw(data)
    assert why in refused(location(server))


@pytest.mark.bad_input(40)
@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n" + DOCUMENT]
)
def test_a_truncated_answer(server: IssuerServer, data: bytes) -> None:
    server.behaviours[JWKS_PATH] = cut(data)
    text = refused(location(server))
    assert text == f"{server.jwks_url}: the connection was cut before the end of the answer"


STATUSES = [
    (204, "answered 204, not 200"),
    (206, "answered 206, not 200"),
    (401, "give it a token with tokenFile"),
    (403, "give it a token with tokenFile"),
    (404, "answered 404, not 200"),
    (500, "answered 500, not 200"),
    (503, "answered 503, not 200"),
]


@pytest.mark.bad_input(40)
@pytest.mark.parametrize(("status", "why"), STATUSES)
def test_other_statuses(server: IssuerServer, status: int, why: str) -> None:
    server.behaviours[JWKS_PATH] = answer(DOCUMENT, status)
    text = refused(location(server))
    assert why in text
    assert server.jwks_url in text
    server.publish(RSA)
    assert location(server).fetch().keys


def drip(data: bytes) -> Behaviour:
    return raw(*[data[i : i + 1] for i in range(len(data))], pause=0.05)


DRIPS = [
    pytest.param(drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000), id="header"),
    pytest.param(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b" " * 500), id="body"),
    pytest.param(
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 500),
        id="chunks",
    ),
    pytest.param(drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 100), id="continue"),
    pytest.param(raw(b"HTTP/1.1 200 OK\r\n", pause=10), id="silence"),
]


@pytest.mark.bad_input(40)
@pytest.mark.parametrize("behaviour", DRIPS)
def test_a_slow_answer_is_aborted(server: IssuerServer, behaviour: Behaviour) -> None:
    server.behaviours[JWKS_PATH] = behaviour
    address = parse_https_url(server.jwks_url)
    started = time.monotonic()
    with pytest.raises(KeysUnavailableError, match=f"within {SHORT}s"):
        fetching.get(address, server.ca_file, "", Deadline(SHORT, time.monotonic))
    assert_within(time.monotonic() - started, SHORT + 0.5)


@pytest.mark.bad_input(40)
def test_five_seconds_for_both_documents(server: IssuerServer) -> None:
    discovery = json.dumps({"issuer": server.url, "jwks_uri": server.jwks_url}).encode()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(3)
        answer(discovery)(handler)

    server.behaviours["/.well-known/openid-configuration"] = slow
    server.behaviours[JWKS_PATH] = drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)
    started = time.monotonic()
    assert "within 5s" in refused(location(server, discovery=True))
    assert MAX_SECONDS == 5
    seconds = time.monotonic() - started
    assert seconds > 4
    assert_within(seconds, 6)


@contextmanager
def plain_listener(*parts: bytes, pause: float = 0) -> Iterator[int]:
    """Accept one connection, without TLS, and send bytes."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            with closing(listener.accept()[0]) as connection:
                try:
                    for part in parts:
                        connection.sendall(part)
                        time.sleep(pause)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.bad_input(40)
def test_a_handshake_that_does_not_end() -> None:
    # The beginning of a TLS record, byte by byte.
    with plain_listener(b"\x16", b"\x03", b"\x03", b"\x40", b"\x00", pause=0.2) as port:
        address = parse_https_url(f"https://{HOST}:{port}/")
        with pytest.raises(KeysUnavailableError, match=f"within {SHORT}s"):
            fetching.get(address, None, "", Deadline(SHORT, time.monotonic))


@pytest.mark.bad_input(40)
def test_plain_http(server: IssuerServer) -> None:
    with plain_listener(b"HTTP/1.1 200 OK\r\n\r\n{}") as port:
        text = refused(location(server, f"https://{HOST}:{port}/"))
        assert text == f"https://{HOST}:{port}/: TLS with it failed: wrong version number"


def test_connection_refused(server: IssuerServer) -> None:
    text = refused(location(server, f"https://{HOST}:1/keys"))
    assert text == f"https://{HOST}:1/keys: it cannot be reached: Connection refused"
    text = refused(location(server, "https://nobody.invalid/keys"))
    assert text.startswith("https://nobody.invalid/keys: it cannot be reached: ")


def certificates(name: str) -> tuple[CertifiedKey, bytes]:
    now = datetime.now(UTC)
    if name == "of another host":
        return ca_and_certificate("other.example")
    if name == "expired":
        return ca_and_certificate(now=now - timedelta(days=400))
    if name == "of a client":
        ca = make_ca("issuer of the tests", now)
        return make_client_certificate(ca, "issuer", now), ca.certificate
    certified, _ = ca_and_certificate()
    return certified, ca_and_certificate()[1]


@pytest.mark.bad_input(40)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("of another host", "IP address mismatch"),
        ("expired", "certificate has expired"),
        ("of a client", "unsuitable certificate purpose"),
        ("of another CA", "certificate"),
    ],
)
@pytest.mark.parametrize("discovery", [False, True])
def test_certificates(tmp_path: Path, name: str, why: str, discovery: bool) -> None:
    with issuer_server(tmp_path, *certificates(name)) as server:
        server.publish(RSA)
        text = refused(location(server, discovery=discovery))
        assert "its certificate is not accepted: " in text
        assert why in text
        assert server.requests == []


@pytest.mark.bad_input(40)
def test_a_private_ca_must_be_configured(server: IssuerServer) -> None:
    where = KeyLocation(server.url, parse_https_url(server.jwks_url))
    assert "its certificate is not accepted: " in refused(where)
    assert server.requests == []


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_ca_file_that_cannot_be_used(
    server: IssuerServer, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "other-ca.crt"
    if content is not None:
        path.write_bytes(content)
    text = refused(KeyLocation(server.url, parse_https_url(server.jwks_url), ca_file=path))
    assert text.startswith(f"caFile {path} is not a readable PEM file of certificates: ")


def test_old_tls_is_refused(tmp_path: Path, server: IssuerServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "issuer.crt", tmp_path / "issuer.key")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            with closing(listener.accept()[0]) as plain, suppress(OSError):
                context.wrap_socket(plain, server_side=True)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        assert "TLS with it failed: " in refused(location(server, f"https://{HOST}:{port}/"))
        thread.join()


WEAK = {
    "symmetric": ({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}, "symmetric"),
    "weak": ({"kty": "RSA", "n": "u" * 170 + "w", "e": "AQAB"}, "bits"),
    "private": (json.loads(DOCUMENT)["keys"][0] | {"d": "AQAB"}, "private"),
    "no object": ("key", "JSON object"),
}


@pytest.mark.bad_input(40)
@pytest.mark.parametrize("name", WEAK)
def test_sets_with_a_key_that_is_not_accepted(server: IssuerServer, name: str) -> None:
    key, why = WEAK[name]
    body = json.dumps({"keys": [json.loads(DOCUMENT)["keys"][0], key]}).encode()
    server.serve(JWKS_PATH, body)
    text = refused(location(server))
    assert text.startswith(f"the keys at {server.jwks_url} cannot be used: key 1 of the set: ")
    assert why in text


@pytest.mark.bad_input(38)
@pytest.mark.fault(3, 4)
def test_unused_and_duplicate_keys(server: IssuerServer) -> None:
    (key,) = json.loads(DOCUMENT)["keys"]
    keys = [key, key, key | {"use": "enc"}, {"kty": "AKP", "alg": "ML-DSA-65", "pub": "AAAA"}]
    server.serve(JWKS_PATH, json.dumps({"keys": keys}).encode())
    fetched = location(server).fetch()
    assert [found.kid for found in fetched.keys] == [key["kid"]]
    assert [text.partition(" (")[0].partition(":")[0] for text in fetched.skipped] == [
        "key 2",
        "key 3",
    ]


@pytest.mark.bad_input(40)
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"keys":[]}', b"<html>", b"\xff", b"[" * 9])
def test_no_key_set(server: IssuerServer, body: bytes) -> None:
    server.serve(JWKS_PATH, body)
    assert "cannot be used: not " in refused(location(server))


@pytest.mark.bad_input(40)
def test_discovery_of_another_issuer(server: IssuerServer) -> None:
    for issuer in (f"{server.url}/", server.url.upper(), f"https://localhost:{server.port}", ""):
        server.serve_discovery(issuer=issuer)
        text = refused(location(server, discovery=True))
        assert f"it must say {server.url!r}" in text
    assert server.asked() == 0


@pytest.mark.bad_input(40)
@pytest.mark.parametrize("scheme", ["http", "HTTPS", "file", "https://user@x"])
def test_discovery_with_a_bad_jwks_uri(server: IssuerServer, scheme: str) -> None:
    server.serve_discovery(jwks_uri=f"{scheme}://{HOST}:{server.port}{JWKS_PATH}")
    text = refused(location(server, discovery=True))
    assert "the jwks_uri of the discovery document is " in text
    assert "https URL" in text
    assert server.asked() == 0


def test_token_file_is_sent(server: IssuerServer, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.touch(0o600)
    for token in ("first.token", "second.token"):
        token_file.write_text(f"{token}\n")
        server.requests.clear()
        location(server, discovery=True, token_file=token_file).fetch()
        sent = [request.headers.get("Authorization") for request in server.requests]
        assert sent == [f"Bearer {token}"] * 2
    server.behaviours[JWKS_PATH] = answer(b"", 401)
    text = refused(location(server, token_file=token_file))
    assert "the token of tokenFile is not accepted" in text
    assert "second" not in text


def test_token_file_is_not_sent_to_another_host(server: IssuerServer, tmp_path: Path) -> None:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("secret.token")
    (tmp_path / "other").mkdir()
    certified, ca = ca_and_certificate()
    with issuer_server(tmp_path / "other", certified, ca) as other:
        other.publish(EC)
        server.ca_file.write_bytes(server.ca_file.read_bytes() + ca)
        server.serve_discovery(jwks_uri=other.jwks_url)
        fetched = location(server, discovery=True, token_file=tmp_path / "token").fetch()
        assert [key.kid for key in fetched.keys] == [EC.verification_key.kid]
        assert "Authorization" in server.requests[0].headers
        assert "Authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "is missing"), (b" \n", "is empty"), (b"two words", "one token"),
     (b"a\r\nX: y", "one token"), (b"\xc3\xa9", "one token"), (b"a\x00b", "one token")],
)  # fmt: skip
def test_token_file_that_holds_no_token(
    server: IssuerServer, tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.touch(0o600)
        path.write_bytes(content)
    text = refused(location(server, token_file=path))
    assert text.startswith("tokenFile ")
    assert str(path) in text
    assert why in text
    assert "words" not in text
    assert server.requests == []


@pytest.mark.bad_input(40)
def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(10))
    started = time.monotonic()
    with pytest.raises(KeysUnavailableError, match=f"within {SHORT}s"):
        fetching.get(
            parse_https_url("https://a.example"), None, "", Deadline(SHORT, time.monotonic)
        )
    assert_within(time.monotonic() - started, SHORT + 0.5)
    answered.set()


def test_an_address_that_does_not_answer_is_passed_over(
    server: IssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, **_: object) -> list[Any]:
        assert (host, port) == (HOST, server.port)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, full.getsockname()), (*kind, (HOST, 1)), (*kind, (HOST, server.port))]

    with ExitStack() as stack:
        # Nothing accepts, and the queue is full: another SYN gets no answer.
        full = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert location(server).fetch().keys
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
        assert "the name has no address" in refused(location(server))


def test_proxies_of_the_environment_are_not_used(
    server: IssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:1")
    assert location(server).fetch().keys
