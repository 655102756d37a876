"""A running server and ``leeway cert``: it picks up what the commands change."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.harness import LEEWAY, RunningServer, start_server
from tests.support import wait_until

pytestmark = pytest.mark.fault(42)
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Return a server whose certificates the tests change."""
    running = start_server(tmp_path_factory.mktemp("certificates"), algorithm="ES256")
    yield running
    running.stop()


def cert(server: RunningServer, *words: str) -> str:
    command = [LEEWAY, "cert", *words, "--data-dir", str(server.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def name_of(server: RunningServer, context: ssl.SSLContext) -> str:
    """Return the username of a caller; empty if the handshake is refused."""
    try:
        answer = server.post(WHOAMI, REVIEW, context)
    except OSError:
        return ""
    return str(answer.json["status"]["userInfo"]["username"])


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def served(server: RunningServer) -> int:
    with server.connect() as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_the_life_of_a_client_certificate(server: RunningServer) -> None:
    cert(server, "create", "lead")
    first = server.context("lead")
    assert name_of(server, first) == "lead"
    cert(server, "renew", "lead")
    second = server.context("lead")
    assert [name_of(server, context) for context in (first, second)] == ["lead", "lead"]
    cert(server, "revoke", "lead")
    wait_until(lambda: name_of(server, first) == name_of(server, second) == "")
    assert name_of(server, server.context("root")) == "root"
    cert(server, "renew", "lead")
    assert name_of(server, server.context("lead")) == "lead"


def test_the_server_s_own_certificate(server: RunningServer) -> None:
    before, path = served(server), server.data_dir / "tls" / "server.crt"
    cert(server, "renew")
    assert serial(path) != before
    # Two workers, each with a listener of its own.
    wait_until(lambda: {served(server) for _ in range(8)} == {serial(path)})
    assert name_of(server, server.context("kube-apiserver")) == "kube-apiserver"
