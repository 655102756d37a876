"""No TLS session is resumed: bad input 58."""

import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keys.files import replace_file
from tests.support import revocation_list, wait_until
from webhook.config.paths import read_pair

from .harness import HOST, RunningServer, start_server

pytestmark = pytest.mark.fault(44)
LIST_SECONDS = 8
REQUEST = f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    # A session is known to the worker that made it, so one worker.
    running = start_server(tmp_path, environment={"LEEWAY_SERVER_WORKERS": "1"})
    yield running
    running.stop()


class Client:
    """A client of TLS 1.2 that offers its last session whenever it connects."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.context = server.context("root")
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.session: ssl.SSLSession | None = None

    def answer(self) -> bytes:
        """Return the answer to a request, empty if the connection is refused."""
        data = b""
        with suppress(ssl.SSLError, ConnectionError), self.connect() as connection:
            connection.sendall(REQUEST)
            while received := connection.recv(65536):
                data += received
        return data

    def connect(self) -> ssl.SSLSocket:
        plain = self.server.plain_connection()
        secure = self.context.wrap_socket(plain, server_hostname=HOST, session=self.session)
        assert not secure.session_reused
        self.session = secure.session
        return secure


@pytest.mark.bad_input(58)
@pytest.mark.parametrize("version", ["1_2", "1_3"])
@pytest.mark.parametrize("user", ["root", ""])
def test_openssl_reconnects(server: RunningServer, version: str, user: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = server.data_dir / "tls"
    command = [openssl, "s_client", "-connect", f"{HOST}:{server.port}", f"-tls{version}"]
    command += ["-reconnect", "-CAfile", str(folder / "ca.crt")]
    if user:
        command += ["-cert", str(folder / f"{user}.crt"), "-key", str(folder / f"{user}.key")]
    done = subprocess.run(command, input=b"", capture_output=True, check=False, timeout=20)
    assert b"\nNew, TLSv1." in done.stdout
    assert b"\nReused, " not in done.stdout


@pytest.mark.bad_input(58)
def test_a_client_that_resumes_is_served_by_a_full_handshake(
    server: RunningServer,
) -> None:
    client = Client(server)
    answers = [client.answer()[:12] for _ in range(6)]
    # After one refusal the session is forgotten.
    assert answers == [b"HTTP/1.1 200", b""] * 3


@pytest.mark.bad_input(58)
def test_revoked(server: RunningServer) -> None:
    client = Client(server)
    assert client.answer()
    certificate = read_pair(server.data_dir / "tls", "root").certificate
    use_list(server, revocation_list(server.ca, [certificate]))
    assert [client.answer() for _ in range(4)] == [b""] * 4


@pytest.mark.bad_input(58)
def test_the_list_ran_out(server: RunningServer) -> None:
    due = datetime.now(UTC) + timedelta(seconds=LIST_SECONDS)
    use_list(server, revocation_list(server.ca, due=due))
    client = Client(server)
    assert client.answer()
    while datetime.now(UTC) <= due + timedelta(seconds=1):
        time.sleep(0.1)
    assert [client.answer() for _ in range(4)] == [b""] * 4


def use_list(server: RunningServer, revoked: bytes) -> None:
    """Write a list of revoked certificates, and wait until the server uses it."""
    replace_file(server.data_dir / "tls" / "ca.crl", revoked, 0o644)
    loaded = "New connections get the certificates that are there now"
    wait_until(lambda: loaded in server.log())
