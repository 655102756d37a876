"""Which clients can connect, and what they are answered."""

import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keys.pki import CertifiedKey, make_ca, make_client_certificate, make_server_certificate
from tests.support import revocation_list
from webhook.config.paths import read_pair

from .harness import (
    HEAD_WARNING,
    HOST,
    LEEWAY,
    REVIEWS,
    REVIEWS_BETA,
    RunningServer,
    free_port,
    start_server,
)

PUBLIC = (
    "/livez",
    "/readyz",
    "/healthz",
    "/version",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
)
NOT_PUBLIC = (
    ("POST", REVIEWS),
    ("POST", REVIEWS_BETA),
    ("GET", REVIEWS),
    ("GET", "/metrics"),
    ("GET", "/api"),
    ("GET", "/apis"),
    ("GET", "/openapi/v2"),
    ("GET", "/openapi/v3"),
    ("GET", "/"),
    ("GET", "//livez"),
    ("GET", "/%2e/metrics"),
    ("GET", "/no-such-path"),
    ("GET", "/no-such-p%C3%A4th"),
    ("DELETE", "/apis"),
)


@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths_need_no_certificate(
    server: RunningServer, nobody: ssl.SSLContext, path: str
) -> None:
    assert server.request("GET", path, context=nobody).status == 200
    head = server.request("HEAD", path, context=nobody)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.bad_input(34)
@pytest.mark.parametrize(("method", "path"), NOT_PUBLIC)
def test_without_a_certificate(
    server: RunningServer, nobody: ssl.SSLContext, method: str, path: str
) -> None:
    answer = server.request(method, path, b"{}" if method == "POST" else None, context=nobody)
    assert answer.status == 401
    assert answer.headers["www-authenticate"]
    status = answer.json
    assert status["kind"] == "Status"
    assert status["apiVersion"] == "v1"
    assert (status["status"], status["reason"], status["code"]) == ("Failure", "Unauthorized", 401)


def test_an_unknown_path_is_a_status(server: RunningServer) -> None:
    answer = server.request("GET", "/no-such-path")
    assert (answer.status, answer.json["reason"]) == (404, "NotFound")


def test_a_web_socket_is_not_opened(server: RunningServer, nobody: ssl.SSLContext) -> None:
    answer = server.exchange(
        f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade, close\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode(),
        nobody,
    )
    # An Upgrade is ignored, so this is the answer to anybody's GET.
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_head_is_not_warned_of(server: RunningServer, nobody: ssl.SSLContext) -> None:
    assert server.request("HEAD", "/livez", context=nobody).status == 200
    assert HEAD_WARNING not in server.log()


def certificates(server: RunningServer) -> dict[str, CertifiedKey]:
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=366)
    return {
        "another CA's": make_client_certificate(make_ca("leeway CA", now), "kube-apiserver", now),
        "expired": server.client_certificate("kube-apiserver", long_ago),
        "not yet valid": server.client_certificate("kube-apiserver", now + timedelta(hours=1)),
        "for servers": make_server_certificate(server.ca, "kube-apiserver", [HOST], now),
    }


@pytest.mark.bad_input(34)
@pytest.mark.parametrize("kind", ["another CA's", "expired", "not yet valid", "for servers"])
def test_a_bad_certificate_is_refused(server: RunningServer, tmp_path: Path, kind: str) -> None:
    assert cut_off(server, server.context_of(certificates(server)[kind], tmp_path))


def test_a_certificate_of_our_own_ca_is_accepted(server: RunningServer, tmp_path: Path) -> None:
    certificate = server.client_certificate("someone", datetime.now(UTC))
    context = server.context_of(certificate, tmp_path)
    assert server.request("GET", "/metrics", context=context).status == 200


def cut_off(server: RunningServer, context: ssl.SSLContext) -> bool:
    """Return whether a connection is closed before any request is read, public or not."""
    # With TLS 1.3 the client finds that out when it reads; uvloop sends no alert.
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        answer = server.exchange(
            f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode(), context
        )
    assert not answer or answer.startswith(b"HTTP/1.1 200 ")
    return not answer


@pytest.mark.bad_input(34)
def test_revoked(tmp_path: Path) -> None:
    now = datetime.now(UTC)

    def revoke_kube_apiserver(data_dir: Path) -> None:
        ca, revoked = (read_pair(data_dir / "tls", name) for name in ("ca", "kube-apiserver"))
        crl = revocation_list(ca, [revoked.certificate], due=now + timedelta(hours=1))
        (data_dir / "tls" / "ca.crl").write_bytes(crl)

    server = start_server(tmp_path, revoke_kube_apiserver)
    try:
        assert cut_off(server, server.context("kube-apiserver"))
        assert not cut_off(server, server.context("root"))
        assert not cut_off(server, server.context(""))
        renewed = server.context_of(server.client_certificate("kube-apiserver", now), tmp_path)
        assert server.post_review(server.sign(), context=renewed).json["status"]["authenticated"]
        path = server.data_dir / "tls" / "ca.crl"
        assert f"certificates revoked by {path}: 1; without a newer list" in server.log()
    finally:
        server.stop()


def broken_lists(folder: Path) -> dict[str, Callable[[Path], object]]:
    now = datetime.now(UTC)
    own, other = read_pair(folder, "ca"), make_ca("leeway CA", now)
    long_ago = now - timedelta(days=2)
    expired = revocation_list(own, start=long_ago, due=now - timedelta(seconds=5))
    return {
        "not valid now": lambda path: path.write_bytes(expired),
        "another CA's": lambda path: path.write_bytes(revocation_list(other)),
        "not a list": lambda path: path.write_bytes(own.certificate),
        "empty": lambda path: path.write_bytes(b""),
        "gone": lambda path: path.symlink_to(folder / "no-such-file"),
    }


@pytest.mark.bad_input(34)
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("not valid now", "ca.crl is valid from "),
        ("another CA's", "ca.crl is not signed by the CA"),
        ("not a list", "ca.crl is not a PEM file"),
        ("empty", "ca.crl is empty"),
        ("gone", "ca.crl is missing"),
    ],
)
def test_an_unusable_list_prevents_the_start(tmp_path: Path, kind: str, words: str) -> None:
    subprocess.run([LEEWAY, "init", "--data-dir", tmp_path], check=True, capture_output=True)
    broken_lists(tmp_path / "tls")[kind](tmp_path / "tls" / "ca.crl")
    done = subprocess.run(
        [LEEWAY, "serve", "--data-dir", tmp_path, "--bind", f"{HOST}:{free_port()}"],
        capture_output=True,
        check=False,
        timeout=20,
    )
    error = done.stderr.decode()
    assert done.returncode in (2, 3), error
    assert error.count("\n") == 1
    assert words in error


@pytest.mark.bad_input(34)
@pytest.mark.parametrize(
    ("version", "served"), [("1", False), ("1_1", False), ("1_2", True), ("1_3", True)]
)
def test_old_tls(server: RunningServer, version: str, served: bool) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    # Python warns of old versions before it offers them.
    command = [openssl, "s_client", "-connect", f"{HOST}:{server.port}", f"-tls{version}"]
    command += ["-cipher", "ALL:@SECLEVEL=0", "-CAfile", str(server.data_dir / "tls" / "ca.crt")]
    done = subprocess.run(command, input=b"", capture_output=True, check=False, timeout=10)
    assert (b"no peer certificate available" not in done.stdout) is served, done.stdout
    assert (done.returncode == 0) is served
