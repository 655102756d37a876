"""Replicas of Leeway on one etcd: real ``leeway serve``, each behind a proxy of its own to etcd.

with Replicas(folder, cluster, prefix="/leeway") as replicas:
    replicas[0].proxy.cut()
    replicas[1].server.post_review(token)
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.harness import AUDIENCE, HOST, LEEWAY, RunningServer, free_port, serve
from tests.etcd_cluster import PASSWORD, EtcdCluster
from tests.etcd_member import USER
from tests.secrets_made import folder_made
from tests.tcp_proxy import TCPProxy

MAX_STALENESS = 3.0


@dataclass(eq=False)
class Replica:
    """One replica: a data directory, a server that comes and goes, and a way to etcd."""

    name: str
    data_dir: Path
    port: int
    proxy: TCPProxy
    environment: Mapping[str, str]
    program: Sequence[str | Path]
    server: RunningServer = field(init=False)

    def start(self, readyz: int = 200) -> None:
        """Serve, and wait for a status of /readyz."""
        self.server = serve(self.data_dir, self.port, self.environment, readyz, self.program)

    @property
    def master(self) -> int:
        return self.server.process.pid

    def workers(self) -> list[int]:
        """Return the process ids of the workers that are there now."""
        try:
            return self.server.workers()
        except OSError:
            return []

    def leeway(self, *words: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command on its data directory."""
        command = [LEEWAY, *map(str, words), "--data-dir", str(self.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, check=check)

    def readyz(self) -> tuple[int, str]:
        """Return the status and the text of /readyz."""
        answer = self.server.request("GET", "/readyz?verbose", context=self.server.context(""))
        return answer.status, answer.body.decode()

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Rewrite leeway.yaml."""
        file = self.data_dir / "leeway.yaml"
        configuration = yaml.safe_load(file.read_text())
        change(configuration)
        file.write_text(yaml.safe_dump(configuration))


@dataclass(eq=False)
class Replicas:
    """Some replicas with one store, the same keys and certificates; a context manager.

    ``store`` are members of ``store.etcd`` beside its endpoints, ``configuration`` other sections
    of leeway.yaml. ``prepare`` is called with each data directory before its server starts;
    ``environment`` is that of each server.
    """

    folder: Path
    cluster: EtcdCluster
    count: int = 2
    workers: int = 2
    prefix: str = "/leeway"
    store: Mapping[str, object] = field(default_factory=dict)
    configuration: Mapping[str, object] = field(default_factory=dict)
    environment: Callable[[str], Mapping[str, str]] = lambda _name: {}
    program: Sequence[str | Path] = (LEEWAY,)
    prepare: Callable[[Path], None] = lambda _data_dir: None
    algorithm: str = "ES256"
    all: list[Replica] = field(init=False, default_factory=list)

    def __getitem__(self, number: int) -> Replica:
        return self.all[number]

    def __iter__(self) -> Iterator[Replica]:
        return iter(self.all)

    def __enter__(self) -> "Replicas":
        try:
            for number in range(self.count):
                self.all.append(self._made("abcdefgh"[number]))
            for replica in self.all:
                replica.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _made(self, name: str) -> Replica:
        folder = self.folder / name
        folder.mkdir(parents=True)
        data_dir, port = folder / "data", free_port()
        proxy = TCPProxy(self.cluster.ports)
        proxy.start()
        environment = self.environment(name)
        replica = Replica(name, data_dir, port, proxy, environment, self.program)
        if self.all:
            shutil.copytree(self.all[0].data_dir, data_dir, copy_function=shutil.copy2)
            (data_dir / "leeway.yaml").unlink()
        else:
            data_dir.mkdir(mode=0o700)
        if self.cluster.files:
            self._copy_files(data_dir)
        if self.cluster.has_auth:
            (data_dir / "etcd-password").touch(0o600)
            (data_dir / "etcd-password").write_text(PASSWORD)
        (data_dir / "leeway.yaml").write_text(yaml.safe_dump(self._configuration(port, proxy)))
        if not self.all:
            command = [LEEWAY, "init", "--data-dir", str(data_dir), "--algorithm", self.algorithm]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stdout + made.stderr
        self.prepare(data_dir)
        folder_made(data_dir)
        return replica

    def _copy_files(self, data_dir: Path) -> None:
        assert self.cluster.files is not None
        for source, name, mode in (
            (self.cluster.files.ca_file, "etcd-ca.crt", 0o644),
            (self.cluster.files.cert_file, "etcd-client.crt", 0o644),
            (self.cluster.files.key_file, "etcd-client.key", 0o600),
        ):
            new = data_dir / f"{name}.new"
            new.touch(mode)
            new.write_bytes(source.read_bytes())
            new.replace(data_dir / name)

    def _configuration(self, port: int, proxy: TCPProxy) -> dict[str, object]:
        files = self.cluster.files
        etcd: dict[str, object] = {
            "endpoints": proxy.endpoints("https" if files else "http"),
            "prefix": self.prefix,
        }
        if files:
            etcd |= {"caFile": "etcd-ca.crt", "certFile": "etcd-client.crt"}
            etcd |= {"keyFile": "etcd-client.key"}
        if self.cluster.has_auth:
            etcd |= {"username": USER, "passwordFile": "etcd-password"}
        return {
            "apiVersion": "leeway.dev/v1",
            "kind": "LeewayConfiguration",
            "issuer": "https://leeway.default.svc",
            "audiences": [AUDIENCE],
            "server": {"bind": f"{HOST}:{port}", "workers": self.workers},
            "store": {"etcd": etcd | dict(self.store)},
            **self.configuration,
        }

    def close(self) -> None:
        """End the servers, then their ways to etcd."""
        for replica in self.all:
            if not hasattr(replica, "server"):
                continue
            process = replica.server.process
            if process.poll() is None:
                process.terminate()
        for replica in self.all:
            if hasattr(replica, "server"):
                try:
                    replica.server.process.wait(30.0)
                except subprocess.TimeoutExpired:
                    replica.server.process.kill()
                    replica.server.process.wait()
            replica.proxy.close()
