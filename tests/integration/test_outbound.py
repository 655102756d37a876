"""Everything that Leeway fetches, from a real HTTPS server that is slow, odd or untrusted."""

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from keys.pki import CertifiedKey
from tests.issuer_server import HOST, JWKS_PATH, Behaviour, IssuerServer, answer, issuer_server, raw
from webhook.cli import skew
from webhook.cli.main import cli
from webhook.doctor import remote
from webhook.errors import LeewayError
from webhook.https_url import parse_https_url
from webhook.objects import api_server
from webhook.objects.kube_client import KubeClient
from webhook.outbound.errors import OutboundError
from webhook.outbound.https import Client, Deadline, client_context, endpoint_of
from webhook.setup.init import InitOptions, initialise
from webhook.token.bound_objects import Kind, ObjectKey
from webhook.trusted_issuers import fetching

POD = ObjectKey(Kind.POD, "argo-run", "loofah")
SHORT = 0.4
PAUSE = 0.05
BYTES = 200
# How many bytes can be on their way in SHORT, with a machine that is busy.
AT_MOST = BYTES // 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[IssuerServer]:
    with issuer_server(tmp_path) as running:
        yield running


def connection_to(server: IssuerServer, folder: Path) -> KubeClient:
    cluster = {"server": server.url, "certificate-authority": str(server.ca_file)}
    document = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": cluster}],
        "users": [{"name": "a", "user": {"token": "of-a"}}],
    }
    path = folder / "kubeconfig.yaml"
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return KubeClient(path)


def fetch_keys(server: IssuerServer, folder: Path) -> object:
    address = parse_https_url(server.jwks_url)
    return fetching.KeyLocation("https://a", address, ca_file=server.ca_file).fetch()


def look_up(server: IssuerServer, folder: Path) -> object:
    with closing(connection_to(server, folder)) as connection:
        return api_server.look_up(connection, POD)


def list_pods(server: IssuerServer, folder: Path) -> object:
    with closing(connection_to(server, folder)) as connection:
        return api_server.list_page(connection, Kind.POD)


def watch_pods(server: IssuerServer, folder: Path) -> object:
    with (
        closing(connection_to(server, folder)) as connection,
        api_server.Watch(connection, Kind.POD, "1", 0, SHORT) as watch,
    ):
        return list(watch.events())


def examine(server: IssuerServer, folder: Path) -> object:
    endpoint = endpoint_of(parse_https_url(server.url))
    return remote.get(endpoint, client_context(server.ca_file), JWKS_PATH)


def show_skew(server: IssuerServer, folder: Path) -> object:
    data_dir = folder / "data"
    initialise(data_dir, InitOptions(algorithm="ES256"), time.time())
    (data_dir / "tls" / "ca.crt").write_bytes(server.ca_file.read_bytes())
    arguments = ["skew", "--data-dir", str(data_dir), "--server", f"{HOST}:{server.port}"]
    return cli.main(arguments, standalone_mode=False)


def problem_of(caller: Callable[[IssuerServer, Path], object], *where: Any) -> str:
    try:
        caller(*where)
    except LeewayError as error:
        return str(error)
    return ""


CALLERS = [fetch_keys, look_up, list_pods, watch_pods, examine, show_skew]
Caller = Callable[[IssuerServer, Path], object]


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_SECONDS", SHORT)
    monkeypatch.setattr(api_server, "LOOKUP_SECONDS", SHORT)
    monkeypatch.setattr(api_server, "_LIST_SECONDS", SHORT)
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", SHORT)
    monkeypatch.setattr(skew, "_TIMEOUT_SECONDS", SHORT)


class Paths(dict[str, Behaviour]):
    """One behaviour for all paths."""

    def get(self, key: str, default: object = None) -> Behaviour:
        return self["any"]


def behave(server: IssuerServer, behaviour: Behaviour) -> None:
    server.behaviours = Paths(any=behaviour)


HEAD = b"HTTP/1.1 200 OK\r\nDate: Mon, 30 Nov 2026 12:00:00 GMT\r\n"
DRIPS = [
    pytest.param(HEAD + b"Content-Length: 1000\r\n\r\n", b" ", id="body"),
    pytest.param(HEAD + b"\r\n", b" ", id="body-without-length"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunks"),
    pytest.param(HEAD, b"X", id="header"),
]


@pytest.mark.fault(20)
@pytest.mark.usefixtures("short_deadlines")
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("head", "piece"), DRIPS)
def test_a_deadline_holds_for_slow_answers(
    server: IssuerServer, tmp_path: Path, caller: Caller, head: bytes, piece: bytes
) -> None:
    sent = 0

    def drip(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.wfile.write(head)
        for _ in range(BYTES):
            handler.wfile.write(piece)
            sent += 1
            time.sleep(PAUSE)

    behave(server, drip)
    with pytest.raises(LeewayError, match=r"it did not answer in full within 0\.4s"):
        caller(server, tmp_path)
    assert sent < AT_MOST


DIGITS = "f" * 5000
NUMBERS = [
    pytest.param(f"Transfer-Encoding: chunked\r\n\r\n{DIGITS}\r\n{{}}", id="chunk-size"),
    pytest.param("Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n{}", id="chunk-of-2^63"),
    pytest.param("Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n", id="negative-chunk"),
    pytest.param(f"Content-Length: {'9' * 5000}\r\n\r\n{{}}", id="length"),
    pytest.param(f"Content-Length: {'9' * 400}\r\n\r\n{{}}", id="length-that-python-reads"),
    pytest.param("Content-Length: -1\r\n\r\n{}", id="negative-length"),
    pytest.param(f"Cache-Control: max-age={'9' * 5000}\r\n\r\n{{}}", id="max-age"),
]


@pytest.mark.fault(51)
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("rest", NUMBERS)
def test_numbers_of_thousands_of_digits(
    server: IssuerServer, tmp_path: Path, caller: Caller, rest: str
) -> None:
    behave(server, raw(HEAD + rest.encode()))
    # As for an unexpected answer; examine() checks no body.
    problem = problem_of(caller, server, tmp_path)
    assert problem.isprintable()
    assert problem or caller in (examine, watch_pods)


@pytest.mark.fault(51)
def test_a_status_of_thousands_of_digits(server: IssuerServer, tmp_path: Path) -> None:
    behave(server, raw(b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n{}"))
    for caller in CALLERS:
        with pytest.raises(LeewayError, match="not HTTP"):
            caller(server, tmp_path)


def certificates_without_identifiers(
    host: str = HOST, expired: bool = False
) -> tuple[CertifiedKey, bytes]:
    """Return a server certificate and its CA as EKS and MicroK8s make them."""
    now = datetime.now(UTC) - (timedelta(days=20) if expired else timedelta(minutes=1))
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def builder(name: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("kubernetes"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=10))
        )

    ca = (
        builder("kubernetes", ca_key.public_key())
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(host)] if host != HOST else [_address()])
    leaf = builder(host, key.public_key()).add_extension(names, False).sign(ca_key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return CertifiedKey(leaf.public_bytes(Encoding.PEM), pem), ca.public_bytes(Encoding.PEM)


def _address() -> x509.IPAddress:
    from ipaddress import ip_address

    return x509.IPAddress(ip_address(HOST))


@pytest.fixture
def strict_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use Python 3.13's default."""
    original = ssl.create_default_context

    def strict(*arguments: object, **named: object) -> ssl.SSLContext:
        context = original(*arguments, **named)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


def fetched_with(context: ssl.SSLContext, server: IssuerServer) -> bytes:
    address = parse_https_url(server.jwks_url)
    client = Client(endpoint_of(address), context)
    try:
        with client.get(address.target, {}, Deadline(5.0), 1000) as response:
            return response.read()
    finally:
        client.close()


@pytest.mark.fault(24)
@pytest.mark.usefixtures("strict_default")
def test_a_ca_without_key_identifiers_is_trusted(tmp_path: Path) -> None:
    with issuer_server(tmp_path, *certificates_without_identifiers()) as server:
        server.serve(JWKS_PATH, b"{}")
        assert fetched_with(client_context(server.ca_file), server) == b"{}"
        assert fetched_with(client_context(ca=server.ca_file.read_text()), server) == b"{}"
        strict = ssl.create_default_context(cafile=server.ca_file)
        with pytest.raises(OutboundError, match="Missing Authority Key Identifier"):
            fetched_with(strict, server)


@pytest.mark.fault(24)
@pytest.mark.usefixtures("strict_default")
@pytest.mark.parametrize("caller", CALLERS)
def test_every_request_trusts_such_a_ca(tmp_path: Path, caller: Caller) -> None:
    with issuer_server(tmp_path, *certificates_without_identifiers()) as server:
        behave(server, answer(b"", 500))
        assert "certificate" not in problem_of(caller, server, tmp_path)
        assert server.requests


@pytest.mark.fault(24)
@pytest.mark.usefixtures("strict_default")
@pytest.mark.parametrize(
    ("options", "why"),
    [({"host": "other.example"}, "IP address mismatch"), ({"expired": True}, "expired")],
)
def test_names_and_dates_are_still_checked(
    tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    with issuer_server(tmp_path, *certificates_without_identifiers(**options)) as server:
        with pytest.raises(OutboundError, match=why):
            fetched_with(client_context(server.ca_file), server)
        assert server.requests == []


@pytest.mark.fault(24)
@pytest.mark.usefixtures("strict_default")
def test_the_chain_is_still_checked(tmp_path: Path) -> None:
    certified, _ = certificates_without_identifiers()
    _, other = certificates_without_identifiers()
    with issuer_server(tmp_path, certified, other) as server:
        with pytest.raises(OutboundError, match="certificate"):
            fetched_with(client_context(server.ca_file), server)
        assert server.requests == []
