"""A real etcd of one or several members on loopback, whose members can be stopped in any way.

    with EtcdCluster(folder) as cluster:
        cluster.leader().kill()

``memory_folder`` makes a folder whose disk hesitates for nobody.
"""

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.etcd_member import (
    HOST,
    START_SECONDS,
    USER,
    EtcdFiles,
    Member,
    make_files,
    need_program,
    version_of,
)
from tests.secrets_made import password_made
from tests.tcp_proxy import TCPProxy

ROOT_PASSWORD = "etcd-root-4hVq8ZrN"
PASSWORD = "etcd-leeway-7TkW2mXs"
_LEADER_SECONDS = 30.0
# Below the ports that the kernel gives to clients: a member that is down keeps its port.
_PORTS = range(20_000, 32_000)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Make a folder in memory where there is such a file system, and remove it afterwards."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="leeway-etcd-", dir=place) as name:
        yield Path(name)


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
        self.files = make_files(self.folder / "tls") if self.tls else None
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
                self._wait(member.is_healthy, START_SECONDS, f"{member.name} is not healthy")

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
